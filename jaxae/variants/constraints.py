"""Constraints on parameters, as Optax transformations.

Unit norm of a decoder's rows, non-negative thresholds, kernels of bounded spectral norm.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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


class Spectral(NamedTuple):
    """State of `spectral`: that of the optimizer, and a right singular vector of every kernel."""

    inner: optax.OptState
    vectors: Any


def spectral(optimizer: optax.GradientTransformation, group: str = "decoder") -> optax.GradientTransformation:
    """The optimizer, followed by a division of every `kernel` of this group with a spectral norm above 1 by that norm.

    A kernel [.., out] is a matrix of `out` columns (Miyato, Kataoka, Koyama & Yoshida 2018, section 2.1, who divide
    smaller kernels too). The norm is estimated by one power iteration per step, so that it is 1 at most in the limit of
    small steps.
    """

    def selected(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)

    def init(params: Params) -> Spectral:
        vectors = jax.tree.map(
            lambda kernel, is_kernel: jnp.full(kernel.shape[-1:] if is_kernel else (), kernel.shape[-1] ** -0.5),
            params[group],
            selected(params[group]),
        )
        return Spectral(optimizer.init(params), vectors)

    def update(updates: Params, state: Spectral, params: Params) -> tuple[Params, Spectral]:
        updates, inner = optimizer.update(updates, state.inner, params)
        new = optax.apply_updates(params[group], updates[group])
        found = jax.tree.map(_bounded, new, state.vectors, selected(new))
        outer, pair = jax.tree.structure(new), jax.tree.structure((0, 0))
        bounded, vectors = jax.tree.transpose(outer, pair, found)
        deltas = jax.tree.map(jnp.subtract, bounded, params[group])
        return {**updates, group: deltas}, Spectral(inner, vectors)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _bounded(
    kernel: Float[Array, "*shape"], vector: Float[Array, "*n"], is_kernel: bool
) -> tuple[Float[Array, "*shape"], Float[Array, "*n"]]:
    """The kernel divided by its spectral norm if that exceeds 1, and its right singular vector after an iteration."""
    if not is_kernel:
        return kernel, vector
    matrix = kernel.reshape(-1, kernel.shape[-1])
    left = _direction(matrix @ vector)
    right = _direction(left @ matrix)
    return kernel / jnp.maximum(jnp.sum(left * (matrix @ right)), 1.0), right


def _direction(vector: Float[Array, " n"]) -> Float[Array, " n"]:
    return vector / jnp.sqrt(jnp.maximum(jnp.sum(vector**2), 1e-12))
