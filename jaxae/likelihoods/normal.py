"""The normal likelihood, for real numbers."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Key

from jaxae.core.divergences import DiagonalNormal, log_normal_terms
from jaxae.likelihoods.location_scale import LocationScale


@dataclass(frozen=True)
class Normal(LocationScale):
    """p(x|z) = N(x; mean, scale^2) in every dimension (Kingma & Welling 2014, appendix C.2).

    scale: see `LocationScale`.
    """

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """log N(x_d; mean, scale^2) of every dimension, in nats: a density, whose value depends on the units of x."""
        return log_normal_terms(DiagonalNormal(*self.split(outputs)), x)

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """mean + scale * noise."""
        p = DiagonalNormal(*self.split(outputs))
        return p.mean + p.scale * jax.random.normal(key, p.mean.shape)
