"""Device plans. No other file uses pmap, meshes or named shardings."""

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxae.core.batch import AXIS, UNSPLIT, Layout, PerDevice
from jaxae.core.reduction import SHARDS
from jaxae.devices.processes import SINGLE_PROCESS, Processes

SEEDS = "seeds"
MODES = ("auto", "pmap", "jit", "fsdp")
REDUCTIONS = ("fast", "reproducible")
SMALL = 1024  # elements: smaller arrays of a state are replicated
Make = Callable[[PerDevice, Layout], Callable[..., Any]]  # (per_device, layout) -> program on a per-device batch


class Plan(NamedTuple):
    """How a run uses its devices."""

    mode: str  # "one" device; "pmap" or "jit" split the batch; "fsdp" also shards the state; "seeds" splits the seeds
    mesh: Mesh
    seeds: int
    layout: Layout = UNSPLIT  # of a batch
    processes: Processes = SINGLE_PROCESS

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.mesh.size


def plan(
    parallel: str,
    batch_size: int,
    seeds: int,
    devices: Sequence[jax.Device] | None = None,
    reduction: str = "fast",
    accumulate: int = 1,
    processes: Processes = SINGLE_PROCESS,
) -> Plan:
    """Choose how to split seeds or batches over devices (default: all).

    Seeds are split if their number is divisible by the number of devices, since they need no communication; otherwise
    the batch is, by pmap unless parallel=jit or parallel=fsdp, which also shards parameters and optimizer state.
    parallel: auto, pmap, jit or fsdp. reduction: fast or reproducible. accumulate: microbatches per device.
    ValueError for unknown values, for a batch size that is not divisible, and for mutually exclusive arguments.
    """
    for name, value, known in (("parallel", parallel, MODES), ("reduction", reduction, REDUCTIONS)):
        if value not in known:
            raise ValueError(f"{name}={value} is unknown; use one of {', '.join(known)}")
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    if reduction == "reproducible":  # always by pmap, for the same program on any number of devices
        if parallel in ("jit", "fsdp") or accumulate > 1:
            other = f"accumulate={accumulate}" if parallel in ("auto", "pmap") else f"parallel={parallel}"
            raise ValueError(f"reduction=reproducible sets pmap and microbatches; omit {other}")
        if SHARDS % n:
            raise ValueError(f"reduction=reproducible needs 1, 2, 4 or {SHARDS} devices, not {n}")
        _divides(batch_size, SHARDS, f"by {SHARDS} shards")
        return Plan("pmap", mesh, seeds, Layout(AXIS, SHARDS // n, ordered=True), processes)
    spread = n > 1 and seeds % n == 0 and not processes.is_multiprocess
    if spread or (n == 1 and parallel != "pmap"):
        _divides(batch_size, accumulate, f"by {accumulate} microbatches")
        # Another axis name, since batch means must not reduce over seeds.
        names = Mesh(mesh.devices, (SEEDS,), axis_types=(AxisType.Auto,)) if spread else mesh
        return Plan("seeds" if spread else "one", names, seeds, Layout(None, accumulate), processes)
    microbatches = f" x {accumulate} microbatches" if accumulate > 1 else ""
    _divides(batch_size, n * accumulate, f"by {n} devices{microbatches}")
    if parallel in ("jit", "fsdp"):
        return Plan(parallel, mesh, seeds, Layout(None, accumulate), processes)
    return Plan("pmap", mesh, seeds, Layout(AXIS, accumulate), processes)


def _divides(batch_size: int, by: int, how: str) -> None:
    if batch_size % by:
        below, above = batch_size // by * by, -(-batch_size // by) * by
        near = f"{below} or {above}" if below else f"{above}"
        raise ValueError(f"batch_size={batch_size} is not divisible {how}; use {near}")


def platform_error() -> str:
    """Error message if `JAX_PLATFORMS` names a platform without a device, else empty. Initializes JAX's devices."""
    try:
        jax.devices()
    except Exception:  # a RuntimeError or an AssertionError, by version of JAX
        wanted = os.environ.get("JAX_PLATFORMS", "")
        return f"JAX_PLATFORMS={wanted}: JAX finds no such device; unset it, or install jax[cuda12] or jax[tpu]"
    return ""


def compile(
    make: Make,
    plan: Plan,
    seeded: Sequence[bool],
    example: tuple[Any, ...] = (),
    split: Sequence[bool] = (),
) -> Callable[..., Any]:
    """Compile `make(per_device, layout)` for the plan: at the first call, or ahead of time for the shapes of `example`.

    seeded: whether each argument has a leading axis of seeds, if there are several seeds (every result has one then).
    split: for each argument, whether it was placed by `place_parts` (default: none).
    """

    def over_seeds(per_device: PerDevice) -> Callable[..., Any]:
        function = make(per_device, plan.layout)
        return jax.vmap(function, in_axes=tuple(0 if s else None for s in seeded)) if plan.seeds > 1 else function

    if plan.mode == "pmap":

        def on_device(device: jax.Array, *args: Any) -> Any:
            def per_device(x: jax.Array) -> jax.Array:
                size = x.shape[0] // plan.devices
                return jax.lax.dynamic_slice_in_dim(x, device * size, size)

            return over_seeds(per_device)(*args)

        axes = (0, *[0 if of else None for of in split or [False] * len(seeded)])
        devices = list(plan.mesh.devices)
        mapped = jax.pmap(on_device, axis_name=AXIS, in_axes=axes, out_axes=None, devices=devices)  # type: ignore[arg-type]
        now = _ahead(mapped, (np.array(_local(plan)), *example), plan) if example else mapped
        numbers = _put(np.arange(plan.devices), NamedSharding(plan.mesh, PartitionSpec(AXIS)), plan)
        return lambda *args: now(numbers, *args)
    if plan.mode in ("jit", "fsdp"):
        rows = NamedSharding(plan.mesh, PartitionSpec(AXIS))
        program = over_seeds(lambda x: jax.lax.with_sharding_constraint(x, rows))

        def sharded(*args: Any) -> Any:
            results = program(*args)
            return jax.lax.with_sharding_constraint(results, state_shardings(results, plan, plan.seeds > 1))

        compiled = jax.jit(sharded if plan.mode == "fsdp" else program)
    elif plan.mode == "seeds":
        specs = tuple(PartitionSpec(SEEDS) if s else PartitionSpec() for s in seeded)
        function = over_seeds(lambda x: x)
        compiled = jax.jit(
            jax.shard_map(function, mesh=plan.mesh, in_specs=specs, out_specs=PartitionSpec(SEEDS), check_vma=False)
        )
    else:
        compiled = jax.jit(over_seeds(lambda x: x))
    return _ahead(compiled, example, plan) if example else compiled


def _ahead(function: Any, example: tuple[Any, ...], plan: Plan) -> Callable[..., Any]:
    # With several seeds the algebraic simplifier rewrites the program of one device, and the bits change. It stays on
    # for a single seed, for which XLA on CPU miscompiles the log density of the VampPrior without it.
    options = {"xla_disable_hlo_passes": "algsimp"} if plan.layout.ordered and plan.seeds > 1 else None
    compiled: Callable[..., Any] = function.lower(*example).compile(compiler_options=options)
    return compiled


def memory() -> int:
    """Memory of a device in bytes; on CPU, of the machine."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def place(tree: Any, plan: Plan, seeded: bool) -> Any:
    """Place arrays for the plan's compiled functions: replicated on every device, or split over seeds."""
    sharding = _whole(plan, seeded)
    return _put(tree, jax.tree.map(lambda _: sharding, tree), plan)


def parts(plan: Plan, batch_size: int) -> list[range]:
    """The places in a batch of each device of this process; the complete batch if it is not split."""
    if plan.mode in ("one", "seeds"):
        return [range(batch_size)]
    part = batch_size // plan.devices
    return [range(number * part, (number + 1) * part) for number in _local(plan)]


def place_parts(x: np.ndarray, plan: Plan, seeded: bool) -> jax.Array:
    """Place an array [n, ...], or [S, n, ...] with an axis of seeds, of the `parts` of this process on its devices.

    The result has those of all processes, as [N, ...] or [S, N, ...]; by pmap as [N, S, ...].
    """
    if plan.mode in ("one", "seeds"):
        return jax.device_put(x, _whole(plan, seeded))
    axis = int(seeded and plan.mode != "pmap")
    x = np.moveaxis(x, 1, 0) if seeded and not axis else x
    sharding = NamedSharding(plan.mesh, PartitionSpec(*[None] * axis, AXIS))
    places = {number: at for at, number in enumerate(_local(plan))}

    def of(index: Any) -> np.ndarray:
        return x.take([places[index[axis].start or 0]], axis)

    return jax.make_array_from_callback((*x.shape[:axis], plan.devices, *x.shape[axis + 1 :]), sharding, of)


def _local(plan: Plan) -> list[int]:
    """Numbers of the devices of this process."""
    return [i for i, device in enumerate(plan.mesh.devices) if device.process_index == jax.process_index()]


def place_state(tree: Any, plan: Plan, seeded: bool) -> Any:
    """Place a state, or totals: as `place`, or in shards."""
    return _put(tree, state_shardings(tree, plan, seeded), plan)


def state_shardings(tree: Any, plan: Plan, seeded: bool) -> Any:
    """The sharding of every array of a state, or of its shapes.

    fsdp shards an array of at least `SMALL` elements along its longest axis whose length is divisible by the number of
    devices; of equally long ones the last, since a square matrix with a sharded output axis needs communication of
    activations only. Other arrays, and those of other modes, are placed as by `place`.
    """

    def sharding(leaf: Any) -> NamedSharding:
        axes = [i for i, length in enumerate(leaf.shape) if length % plan.devices == 0]
        if plan.mode != "fsdp" or leaf.size < SMALL or not axes:
            return _whole(plan, seeded)
        longest = max(axes, key=lambda i: (leaf.shape[i], i))
        return NamedSharding(plan.mesh, PartitionSpec(*[None] * longest, AXIS))

    return jax.tree.map(sharding, tree)


def bytes_per_device(tree: Any, plan: Plan | None, seeded: bool) -> int:
    """Bytes that a state, or its shapes, takes on each device; without a plan, on one."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        shape = leaf.shape if plan is None else state_shardings(leaf, plan, seeded).shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def _whole(plan: Plan, seeded: bool) -> NamedSharding:
    return NamedSharding(plan.mesh, PartitionSpec(SEEDS) if seeded and plan.mode == "seeds" else PartitionSpec())


def _put(tree: Any, shardings: Any, plan: Plan) -> Any:
    def put(leaf: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf), sharding))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    # With several processes, device_put would compare the arrays of all of them.
    return jax.tree.map(put, tree, shardings) if plan.processes.is_multiprocess else jax.device_put(tree, shardings)
