"""Devices and processes: the only file that names pmap, shardings, meshes and jax.distributed."""

import faulthandler
import itertools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxae import signals
from jaxae.batch import AXIS
from jaxae.epoch import Share
from jaxae.errors import InputError, first_line
from jaxae.reduction import SHARDS, Parts, taken_in

SEEDS = "seeds"
DAY = 86400  # seconds: longer than one process draws while the others wait


class Plan(NamedTuple):
    """How a run uses its devices."""

    mode: str  # "one" device; "pmap" or "jit" split the batch; "seeds" gives each device its share of the seeds
    mesh: Mesh
    seeds: int
    parts: Parts | None = None  # in which a device takes its share of a batch, if not at once

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
) -> Plan:
    """`--parallel auto|pmap|jit`, `--reduction fast|reproducible` and `--accumulate` on these devices (all there are).

    Seeds that divide evenly over the devices need no communication, so they are spread first. Otherwise the batch is,
    by pmap unless jit is asked for. InputError for a batch size that does not divide, and what does not go together.
    """
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    if reduction == "reproducible":  # one form of program for any number of devices
        if parallel == "jit" or accumulate > 1:
            other = "--parallel jit" if parallel == "jit" else "--accumulate"
            raise InputError(f"--reduction reproducible: is by pmap, part after part: leave {other} out")
        if SHARDS % n:
            raise InputError(f"--reduction reproducible: is for 1, 2, 4 or {SHARDS} devices, and there are {n}")
        _divides(batch_size, SHARDS, f"into {SHARDS} shards")
        return Plan("pmap", mesh, seeds, Parts(SHARDS // n, ordered=True))
    parts = Parts(accumulate, ordered=False) if accumulate > 1 else None
    spread = n > 1 and seeds % n == 0 and jax.process_count() == 1
    if spread or (n == 1 and parallel != "pmap"):
        _divides(batch_size, accumulate, f"into {accumulate} parts")
        # under another name, since means are not to be taken over it
        names = Mesh(mesh.devices, (SEEDS,), axis_types=(AxisType.Auto,)) if spread else mesh
        return Plan("seeds" if spread else "one", names, seeds, parts)
    _divides(batch_size, n * accumulate, f"over {n} devices" + (f" in {accumulate} parts each" if parts else ""))
    return Plan("jit" if parallel == "jit" else "pmap", mesh, seeds, parts)


def _divides(batch_size: int, by: int, how: str) -> None:
    if batch_size % by:
        below, above = batch_size // by * by, -(-batch_size // by) * by
        near = f"{below} or {above}" if below else f"{above}"
        raise InputError(f"--batch-size {batch_size} does not divide {how}: use {near}")


def compile(
    make: Callable[[Share], Callable[..., Any]], plan: Plan, seeded: Sequence[bool], example: tuple[Any, ...] = ()
) -> Callable[..., Any]:
    """Compile `make(share)` for the plan: at its first call, or now for arguments like those of the example.

    seeded: for each argument, whether it has a leading axis of seeds when there are several (every result has one).
    """

    def over_seeds(share: Share) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            with taken_in(plan.parts):
                return make(share)(*args)

        return jax.vmap(function, in_axes=tuple(0 if s else None for s in seeded)) if plan.seeds > 1 else function

    if plan.mode == "pmap":

        def on_device(device: jax.Array, *args: Any) -> Any:
            def share(x: jax.Array) -> jax.Array:
                size = x.shape[0] // plan.devices
                return jax.lax.dynamic_slice_in_dim(x, device * size, size)

            return over_seeds(share)(*args)

        axes = (0, *[None] * len(seeded))
        devices = list(plan.mesh.devices)
        mapped = jax.pmap(on_device, axis_name=AXIS, in_axes=axes, out_axes=None, devices=devices)  # type: ignore[arg-type]
        here = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
        now = _ahead(mapped, (np.array(here), *example), plan) if example else mapped
        numbers = _put(np.arange(plan.devices), NamedSharding(plan.mesh, PartitionSpec(AXIS)))
        return lambda *args: now(numbers, *args)
    if plan.mode == "jit":
        split = NamedSharding(plan.mesh, PartitionSpec(AXIS))
        compiled = jax.jit(over_seeds(lambda x: jax.lax.with_sharding_constraint(x, split)))
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
    # The simplifier makes x / c a product where c stands still, and when it sees that depends on the number of devices.
    ordered = plan.parts is not None and plan.parts.ordered
    options = {"xla_disable_hlo_passes": "algsimp"} if ordered else None
    compiled: Callable[..., Any] = function.lower(*example).compile(compiler_options=options)
    return compiled


def memory() -> int:
    """Bytes that there are on a device; on a CPU, in the machine."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def place(tree: Any, plan: Plan, seeded: bool) -> Any:
    """Put arrays where compiled functions of this plan want them: copied to every device, or split by seeds."""
    spec = PartitionSpec(SEEDS) if seeded and plan.mode == "seeds" else PartitionSpec()
    return _put(tree, NamedSharding(plan.mesh, spec))


def _put(tree: Any, sharding: NamedSharding) -> Any:
    def put(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    # Where devices are those of other processes too, device_put would compare what all of them give.
    return jax.tree.map(put, tree) if several() else jax.device_put(tree, sharding)


_patience = 0.0  # seconds to wait for other processes
_meetings = itertools.count()


def join(coordinator: str, num_processes: int, process_id: int, heartbeat: int, patience: int) -> None:
    """Become one of several processes that train together; alone, without a coordinator.

    coordinator: HOST:PORT at which process 0 listens, or auto. InputError where that makes no sense; the process ends
    where the others do not come.
    """
    global _patience
    if not coordinator:
        if num_processes > 1 or process_id:
            raise InputError("--num-processes, --process-id: say where the first one is: --coordinator HOST:PORT")
        return
    where: dict[str, Any] = {}
    if coordinator != "auto":
        if not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise InputError(f"--coordinator {coordinator}: must be HOST:PORT, or auto")
        if process_id >= num_processes:
            raise InputError(f"--process-id {process_id}: must be below --num-processes {num_processes}")
        where = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    line = f"error: --coordinator {coordinator}: not all processes came within {patience} s: start them, or wait longer"
    late = threading.Timer(patience, signals.leave, (2, f"{line} (--patience)"))
    late.daemon = True  # JAX itself would abort
    late.start()
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from `signals`
    try:
        jax.distributed.initialize(
            **where,
            initialization_timeout=patience + 60,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=DAY,
        )
    except (RuntimeError, ValueError) as error:
        reason = "no cluster is found" if "should be defined" in str(error) else first_line(error)
        raise InputError(f"--coordinator {coordinator}: {reason}: give HOST:PORT of a free port") from None
    finally:
        late.cancel()
    _patience = patience


def several() -> bool:
    """Whether there are other processes."""
    return _patience > 0 and jax.process_count() > 1


def leads() -> bool:
    """Whether this is the process that writes."""
    return not several() or jax.process_index() == 0


def part() -> None:
    """Wait until all processes are here, and go on alone."""
    if several():
        jax.distributed.shutdown()


def meet() -> None:
    """Wait until all processes are here: Gloo gives those that come late to their first collective 30 seconds."""
    if several():
        with waiting():
            _meet(DAY)


def leave(code: int) -> NoReturn:
    """End the process after an error. Where the others have the same one, none of them is to miss process 0."""
    with suppress(jax.errors.JaxRuntimeError):
        _meet(3)
        time.sleep(0.5 if leads() else 0)
    signals.leave(code)


def _meet(seconds: float) -> None:
    """A barrier of the service that process 0 runs: unlike collectives, it waits for as long as it is to."""
    client: Any = distributed.global_state.client
    client.wait_at_barrier(f"jaxae-{next(_meetings)}", int(1000 * seconds))


@contextmanager
def waiting() -> Iterator[None]:
    """While other processes are needed: if they are stuck, say where this one is, and end it."""
    if several():
        faulthandler.dump_traceback_later(_patience, exit=True)
    try:
        yield
    finally:
        if several():
            faulthandler.cancel_dump_traceback_later()


def most(value: float) -> float:
    """The largest value of all processes."""
    if not several():
        return value
    with waiting():
        return float(np.max(multihost_utils.process_allgather(np.float32(value))))


def told(value: Any) -> Any:
    """A JSON value of the process that leads."""
    if not several():
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    with waiting():
        size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    return json.loads(given(text if leads() else np.zeros(size, np.uint8)).tobytes())


def given(tree: Any) -> Any:
    """Arrays of the process that leads: the same bits."""
    if not several():
        return tree
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    with waiting():
        sent = multihost_utils.broadcast_one_to_all([np.ravel(leaf).view(np.uint8) for leaf in leaves])
    back = [np.asarray(b).view(a.dtype).reshape(a.shape) for a, b in zip(leaves, sent, strict=True)]
    return jax.tree.unflatten(structure, back)


@contextmanager
def one_first() -> Iterator[None]:
    """The process that leads does this before the others do, which wait as long as it takes."""
    if not leads():
        _meet(DAY)
    yield
    if several() and leads():
        _meet(DAY)
