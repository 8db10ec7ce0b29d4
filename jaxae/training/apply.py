"""Compiled calls of a trained model, for one seed or for several."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.types import State, Variables


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def method(
    model: nn.Module, name: str, several: bool, own: bool, variables: Variables, first: jax.Array, *others: jax.Array
) -> jax.Array:
    """Apply a method of the model. own: the first argument has an axis of seeds."""

    def apply(variables: Variables, *args: jax.Array) -> Any:
        return model.apply(variables, *args, method=name)

    axes = (0, 0 if own else None, *(None for _ in others))
    result: jax.Array = (jax.vmap(apply, in_axes=axes) if several else apply)(variables, first, *others)
    return result


@partial(jax.jit, static_argnums=(0, 1))
def terms(loss: Loss, several: bool, state: State, batch: Batch, key: Any) -> dict[str, Any]:
    """The terms of a loss for every example; state and key have an axis of several seeds."""

    def one(state: State, key: Key[Array, ""]) -> Terms:
        return loss(state.variables, batch.replace(step=state.step), key)[0]

    return (jax.vmap(one) if several else one)(state, key)
