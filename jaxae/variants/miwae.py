"""MIWAE (Mattei & Frellsen 2019): the distribution of the missing entries of an example given the observed ones.

The objective (equation 4), the importance weighted bound on the observed entries, is `iwae.loss` of a batch with
missing entries, which are 0 in the encoder's input and are excluded from log p(x|z).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Float, Key

from jaxae.core.types import Variables
from jaxae.likelihoods import Likelihood
from jaxae.variants import iwae
from jaxae.variants.vae import VAE


class Draws(NamedTuple):
    """K samples of each example, z from q(z|x_observed) and x from p(x|z), with their importance weights.

    Weighted means of functions of x, such as x itself, estimate their expectations given the observed entries.
    """

    log_weights: Float[Array, "B K"]
    mean: Float[Array, "B K *D"]  # E[x|z], a better estimator than x; x itself if the weights depend on x
    x: Float[Array, "B K *D"]


# (model, variables, data, q(z|x), z, a key per example) -> draws
DrawsOf: TypeAlias = Callable[
    [VAE, Variables, iwae.Data, iwae.Posterior, Float[Array, "B K Z"], Key[Array, " B"]], Draws
]


def draws(
    model: VAE,
    variables: Variables,
    data: iwae.Data,
    q: iwae.Posterior,
    z: Float[Array, "B K Z"],
    keys: Key[Array, " B"],
) -> Draws:
    """Weights p(x_observed, z) / q(z|x_observed) (Mattei & Frellsen 2019, equation 12)."""
    found, outputs = iwae.decoded(model, variables, data, q, z)
    mean = model.likelihood.mean(outputs)
    return Draws(
        found.log_weights(), mean.reshape(*z.shape[:2], *mean.shape[1:]), sampled(model.likelihood, keys, outputs)
    )


def sampled(likelihood: Likelihood, keys: Key[Array, " B"], outputs: Float[Array, "BK *P"]) -> Float[Array, "B K *D"]:
    """A sample from p(x|z) for each of K codes of each example. outputs: see `iwae.decoded`."""
    return jax.vmap(likelihood.sample)(keys, outputs.reshape(len(keys), -1, *outputs.shape[1:]))
