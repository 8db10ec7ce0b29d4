"""The contractive autoencoder (Rifai et al. 2011): a code that moves little where the image moves a little."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import mean
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants.tied import Tied

Norm = Callable[[dict[str, Any], Float[Array, "B *D"]], Float[Array, " B"]]  # of variables and x


def frobenius(
    encode: Callable[[Float[Array, "B *D"]], Float[Array, "B *Z"]], x: Float[Array, "B *D"]
) -> Float[Array, " B"]:
    """||d encode(x) / dx||_F^2 of each example, codes being functions of their own example alone.

    Backwards, one pass for every unit of the code, one after the other: the nets' own derivatives (see `ops`) know no
    other mode.
    """
    z, pull = jax.vjp(encode, x)
    units = jnp.eye(z[0].size).reshape(-1, 1, *z.shape[1:])
    rows = jax.lax.map(lambda unit: prob.per_example(pull(jnp.broadcast_to(unit, z.shape))[0] ** 2), units)
    return rows.sum(0)


def frobenius_of_sigmoids(h: Float[Array, "B Z"], kernel: Float[Array, "D Z"]) -> Float[Array, " B"]:
    """The same of h = s(x W + b), s the logistic function: sum_j (h_j (1 - h_j))^2 sum_i W_ij^2.

    Rifai et al. 2011, section 5.3: no dearer than the codes themselves.
    """
    return prob.per_example((h * (1 - h)) ** 2 * jnp.sum(kernel**2, axis=0, keepdims=True))


def norm(model: nn.Module) -> Norm:
    """`frobenius` of this model's codes."""
    return lambda variables, x: frobenius(partial(_codes, model, variables), x)


def norm_of_tied(model: Tied) -> Norm:
    """The same in closed form. ValueError for a model whose code is not of sigmoids."""
    if model.activation is not nn.sigmoid:
        raise ValueError("the closed form is that of a sigmoid code")

    def closed(variables: dict[str, Any], x: Float[Array, "B *D"]) -> Float[Array, " B"]:
        return frobenius_of_sigmoids(_codes(model, variables, x), variables["params"]["kernel"])

    return closed


def loss(reconstruction: Loss, norm: Norm, weight: float) -> Loss:
    """reconstruction + weight * ||d code / dx||_F^2, mean over examples (Rifai et al. 2011, section 3).

    Metrics: those of `reconstruction`, with the `loss` that is meant here, and `jacobian`, the norm squared.
    """

    def terms(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        value, (changed, metrics) = reconstruction(params, extra, batch, key)
        jacobian = mean(norm({"params": params, **extra}, batch.x), batch)
        total = value + weight * jacobian
        return total, (changed, {**metrics, "loss": total, "jacobian": jacobian})

    return terms


def _codes(model: nn.Module, variables: dict[str, Any], x: Float[Array, "B *D"]) -> Any:
    return model.apply(variables, x, method="encode")
