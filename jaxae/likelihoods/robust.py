"""Likelihoods of real numbers with heavy tails, which outliers influence less than a normal one."""

from dataclasses import dataclass
from math import log, pi
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Terms
from jaxae.core.divergences import clipped, mean_over_observed
from jaxae.likelihoods.gamma import binet
from jaxae.likelihoods.location_scale import LocationScale

DF_LIMIT = 1e4  # largest number of degrees of freedom


@dataclass(frozen=True)
class Laplace(LocationScale):
    """p(x|z) = exp(-|x - location| / scale) / (2 scale) in every dimension; the location is its mean and median.

    scale: see `LocationScale`.
    """

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log density of every dimension, in nats; its value depends on the units of x."""
        location, log_scale = self.split(outputs)
        log_scale = clipped(log_scale)
        return -jnp.abs(x - location) * jnp.exp(-log_scale) - log(2) - log_scale

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """location + scale * noise."""
        location, log_scale = self.split(outputs)
        return location + jnp.exp(clipped(log_scale)) * jax.random.laplace(key, location.shape)


@dataclass(frozen=True)
class StudentT(LocationScale):
    """Student's t distribution with a location and a scale in every dimension.

    scale: see `LocationScale`. df: degrees of freedom, a number from 1 to 10,000, the same for all; or "predicted",
    3 + softplus of a decoder output for every dimension, at most 10,000 (Mattei & Frellsen 2019, MIWAE, in the authors'
    code). The location is the mean for df > 1. ValueError for any other df.
    """

    df: float | Literal["predicted"] = 5.0

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid scale or df."""
        super().__post_init__()
        if isinstance(self.df, str):
            if self.df != "predicted":
                raise ValueError(f"df={self.df} is unknown; use a number or predicted")
        elif not 1 <= self.df <= DF_LIMIT:
            raise ValueError(f"df={self.df} must be from 1 to 10,000")

    @property
    def blocks(self) -> int:
        """Number of parameters of a dimension that the decoder's net outputs."""
        return super().blocks + (self.df == "predicted")

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log density of every dimension, in nats; its value depends on the units of x."""
        location, df, log_scale = self._parts(outputs)
        z = (x - location) * jnp.exp(-log_scale)
        # log gamma((df + 1) / 2) - log gamma(df / 2) - log(df / 2) / 2, written in terms that stay small
        gammas = binet(df / 2 + 0.5) - binet(df / 2) + df / 2 * jnp.log1p(1 / df) - 0.5
        return gammas - 0.5 * log(2 * pi) - log_scale - (df + 1) / 2 * jnp.log1p(z**2 / df)

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """location + scale * noise."""
        location, df, log_scale = self._parts(outputs)
        radius, angle = jax.random.uniform(
            key, (2, *location.shape), minval=1e-7
        )  # no root of 0, which has no gradient
        # Bailey 1994, "Polar generation of random variates with the t-distribution": with a gradient in df, and without
        # the loop of a gamma sampler
        size = jnp.sqrt(df * jnp.expm1(-2 / df * jnp.log1p(-radius)))
        return location + jnp.exp(log_scale) * size * jnp.cos(2 * pi * angle)

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse` and `scale` (see `LocationScale`); `df`, if predicted: means over observed dimensions."""
        errors = super().errors(outputs, x, observed)
        return errors | (
            {"df": mean_over_observed(self._parts(outputs)[1], observed)} if self.df == "predicted" else {}
        )

    def _parts(self, outputs: Float[Array, "B *P"]) -> tuple[Any, Any, Any]:
        """Location, degrees of freedom and log scale, within their limits."""
        location, *middle, log_scale = self.split(outputs)
        if isinstance(self.df, str):
            df = 3 + nn.softplus(clipped(middle[0], -DF_LIMIT, DF_LIMIT - 3))
        else:
            df = jnp.full_like(location, self.df)
        return location, df, clipped(log_scale)
