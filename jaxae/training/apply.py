"""A method of a model, with the variables of one seed or of several."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax

from jaxae.core.types import Variables


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def apply_method(
    model: nn.Module, name: str, several: bool, own: bool, variables: Variables, first: jax.Array, *others: jax.Array
) -> jax.Array:
    """The result for these arguments, with a leading axis if there are several seeds.

    own: whether the first argument has an axis of seeds too.
    """

    def apply(variables: Variables, *args: jax.Array) -> Any:
        return model.apply(variables, *args, method=name)

    axes = (0, 0 if own else None, *(None for _ in others))
    result: jax.Array = (jax.vmap(apply, in_axes=axes) if several else apply)(variables, first, *others)
    return result
