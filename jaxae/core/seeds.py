"""The axis of seeds: `vmap` over training states."""

import jax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool


@custom_vmap
def in_any_seed(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether the flag is true for any seed; under vmap without an axis of seeds, so that `cond` runs one branch."""
    return flag


@in_any_seed.def_vmap
def _(size: int, mapped: list[bool], flag: jax.Array) -> tuple[jax.Array, bool]:  # noqa: ARG001
    return flag.any(), False
