"""Constraints on parameters, as Optax transformations: unit norm of a decoder's rows, non-negative thresholds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxae.core.types import Params
from jaxae.variants.dictionary import norms


def projected(
    optimizer: optax.GradientTransformation, project: Callable[[Params], Params]
) -> optax.GradientTransformation:
    """The optimizer, followed by a projection of the updated parameters."""

    def update(updates: Params, params: Params) -> Params:
        changed = project(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, changed, params)

    return optax.chain(optimizer, optax.stateless(update))


def unit_norm(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keep rows of `decoder` at norm 1: remove the gradient along each row, and normalize the updated rows.

    Bricken et al. 2023; Gao et al. 2024, appendix A. Otherwise Adam's moments would accumulate the component of the
    gradient that the projection undoes.
    """

    def remove(grads: Params, params: Params) -> Params:
        return {**grads, "decoder": tangent(grads["decoder"], params["decoder"])}

    def project(params: Params) -> Params:
        return {**params, "decoder": params["decoder"] / norms(params["decoder"])[:, None]}

    return projected(optax.chain(optax.stateless(remove), optimizer), project)


def tangent(grad: Float[Array, "n d"], rows: Float[Array, "n d"]) -> Float[Array, "n d"]:
    """The gradient of every row without its component along the row."""
    along = jnp.sum(grad * rows, axis=1) / norms(rows) ** 2
    return grad - along[:, None] * rows


def non_negative(optimizer: optax.GradientTransformation, name: str) -> optax.GradientTransformation:
    """The optimizer, followed by a projection that keeps this parameter non-negative."""
    return projected(optimizer, lambda params: {**params, name: jnp.maximum(params[name], 0)})
