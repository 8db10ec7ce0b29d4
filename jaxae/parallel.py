"""Devices: the only file that names pmap, shardings and meshes."""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxae.batch import AXIS
from jaxae.epoch import Share
from jaxae.errors import InputError

SEEDS = "seeds"


class Plan(NamedTuple):
    """How a run uses its devices."""

    mode: str  # "one" device; "pmap" or "jit" split the batch; "seeds" gives each device its share of the seeds
    mesh: Mesh
    seeds: int

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.mesh.size


def plan(parallel: str, batch_size: int, seeds: int, devices: Sequence[jax.Device] | None = None) -> Plan:
    """`--parallel auto|pmap|jit` on these devices (all there are).

    Seeds that divide evenly over the devices need no communication, so they are spread first. Otherwise the batch is,
    by pmap unless jit is asked for. InputError for a batch size that does not divide.
    """
    devices = jax.devices() if devices is None else devices
    n = len(devices)
    mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
    if n == 1 and parallel != "pmap":
        return Plan("one", mesh, seeds)
    if n > 1 and seeds % n == 0:  # under another name, since means are not to be taken over it
        return Plan("seeds", Mesh(mesh.devices, (SEEDS,), axis_types=(AxisType.Auto,)), seeds)
    if batch_size % n:
        below, above = batch_size // n * n, -(-batch_size // n) * n
        near = f"{below} or {above}" if below else f"{above}"
        raise InputError(f"--batch-size {batch_size} does not divide over {n} devices: use {near}")
    return Plan("jit" if parallel == "jit" else "pmap", mesh, seeds)


def compile(
    make: Callable[[Share], Callable[..., Any]], plan: Plan, seeded: Sequence[bool], example: tuple[Any, ...] = ()
) -> Callable[..., Any]:
    """Compile `make(share)` for the plan: at its first call, or now for arguments like those of the example.

    seeded: for each argument, whether it has a leading axis of seeds when there are several (every result has one).
    """

    def over_seeds(share: Share) -> Callable[..., Any]:
        function = make(share)
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
        numbers = jnp.arange(plan.devices)
        now = _ahead(mapped, (numbers, *example)) if example else mapped
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
    return _ahead(compiled, example) if example else compiled


def _ahead(function: Any, example: tuple[Any, ...]) -> Callable[..., Any]:
    compiled: Callable[..., Any] = function.lower(*example).compile()
    return compiled


def memory() -> int:
    """Bytes that there are on a device; on a CPU, in the machine."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    return limit or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def place(tree: Any, plan: Plan, seeded: bool) -> Any:
    """Put arrays where compiled functions of this plan want them: copied to every device, or split by seeds."""
    spec = PartitionSpec(SEEDS) if seeded and plan.mode == "seeds" else PartitionSpec()
    return jax.device_put(tree, NamedSharding(plan.mesh, spec))
