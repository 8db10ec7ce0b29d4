"""The condition of a conditional model: the class and the covariates of an example."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def condition(y: Int[Array, " B"] | None, context: Float[Array, "B C"] | None, classes: int) -> Float[Array, "B K"]:
    """One-hot classes, zeros for -1 (no class), concatenated with the covariates: K = classes + C.

    y, context: as in `Batch`. classes: their number; 0 leaves `y` out.
    """
    parts = [jax.nn.one_hot(y, classes)] if classes else []
    return jnp.concatenate(parts if context is None else [*parts, context], axis=1)
