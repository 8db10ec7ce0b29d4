"""The contractive autoencoder (Rifai et al. 2011): a penalty on the encoder's Jacobian."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Variables
from jaxae.variants.tied import Tied

Norm = Callable[[Variables, Float[Array, "B *D"]], Float[Array, " B"]]  # of variables and x


def frobenius(
    encode: Callable[[Float[Array, "B *D"]], Float[Array, "B *Z"]], x: Float[Array, "B *D"]
) -> Float[Array, " B"]:
    """||d encode(x) / dx||_F^2 of each example, for encoders that process examples independently.

    Computed with one vector-Jacobian product per latent dimension, sequentially, because `cpu_convolution` does not
    support forward-mode differentiation.
    """
    z, pull = jax.vjp(encode, x)
    directions = jnp.eye(z[0].size).reshape(-1, 1, *z.shape[1:])
    rows = jax.lax.map(lambda v: per_example(pull(jnp.broadcast_to(v, z.shape))[0] ** 2), directions)
    return rows.sum(0)


def frobenius_of_sigmoids(h: Float[Array, "B Z"], kernel: Float[Array, "D Z"]) -> Float[Array, " B"]:
    """`frobenius` of h = s(x W + b), s the logistic function: sum_j (h_j (1 - h_j))^2 sum_i W_ij^2.

    It costs no more than the codes themselves (Rifai et al. 2011, section 5.3).
    """
    return per_example((h * (1 - h)) ** 2 * jnp.sum(kernel**2, axis=0, keepdims=True))


def norm(model: nn.Module) -> Norm:
    """`frobenius` of this model's codes."""
    return lambda variables, x: frobenius(partial(_codes, model, variables), x)


def norm_of_tied(model: Tied) -> Norm:
    """`norm` in closed form. ValueError for a model whose code is not sigmoid."""
    if model.activation is not nn.sigmoid:
        raise ValueError("the closed form needs activation=nn.sigmoid")

    def closed(variables: Variables, x: Float[Array, "B *D"]) -> Float[Array, " B"]:
        return frobenius_of_sigmoids(_codes(model, variables, x), variables["params"]["kernel"])

    return closed


def loss(reconstruction: Loss, norm: Norm, weight: float) -> Loss:
    """reconstruction + weight * ||d code / dx||_F^2 (Rifai et al. 2011, section 3).

    Terms: those of `reconstruction`, its `loss` with the penalty added, and `jacobian`, the squared norm.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        terms, updates = reconstruction(variables, batch, key)
        jacobian = norm(variables, batch.x)
        return {**terms, "loss": terms["loss"] + weight * jacobian, "jacobian": jacobian}, updates

    return objective


def _codes(model: nn.Module, variables: Variables, x: Float[Array, "B *D"]) -> Any:
    return model.apply(variables, x, method="encode")
