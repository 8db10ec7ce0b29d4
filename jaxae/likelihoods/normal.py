"""The normal likelihood, for real values."""

from dataclasses import dataclass
from math import exp, log
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Terms
from jaxae.core.divergences import LOG_SCALE_LIMIT, DiagonalNormal, log_normal_terms, mean_over_observed


@dataclass(frozen=True)
class Normal:
    """p(x|z) = N(x; mean, scale^2) in every dimension (Kingma & Welling 2014, appendix C.2).

    scale: a number, the same for all; "learned", one parameter for all (Rybkin, Daniilidis & Levine 2021, section 3);
    "predicted", output by the decoder for every dimension. Scales are from 2.1e-9 to 4.8e8 (see `DiagonalNormal`):
    ValueError for another number.
    """

    scale: float | Literal["learned", "predicted"] = 1.0
    discrete = False

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid scale."""
        if isinstance(self.scale, str):
            if self.scale not in ("learned", "predicted"):
                raise ValueError(f"scale={self.scale} is unknown; use a number, learned or predicted")
        elif not exp(-LOG_SCALE_LIMIT) <= self.scale <= exp(LOG_SCALE_LIMIT):
            raise ValueError(f"scale={self.scale} must be positive, from 2.1e-9 to 4.8e8")

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A mean per dimension; with a predicted scale, means and log scales concatenated along the last axis."""
        return (*shape[:-1], 2 * shape[-1]) if self.scale == "predicted" else shape

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net; with a learned scale, the log scale is appended to its output."""
        return LearnedScale(net) if self.scale == "learned" else net

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*P"]:
        """The mean; with predicted scales, followed by log scales of 0."""
        return np.concatenate([mean, np.zeros_like(mean)], axis=-1) if self.scale == "predicted" else mean

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """log N(x_d; mean, scale^2) of every dimension, in nats."""
        return log_normal_terms(self._distribution(outputs), x)

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """The mean."""
        return self._distribution(outputs).mean

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """mean + scale * noise."""
        p = self._distribution(outputs)
        return p.mean + p.scale * jax.random.normal(key, p.mean.shape)

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse`, squared error in squared units of x, and `scale`, in units of x: means over observed dimensions."""
        p = self._distribution(outputs)
        return {
            "mse": mean_over_observed((p.mean - x) ** 2, observed),
            "scale": mean_over_observed(p.scale, observed),
        }

    def _distribution(self, outputs: Float[Array, "B *P"]) -> DiagonalNormal:
        if isinstance(self.scale, str):
            return DiagonalNormal(*jnp.split(outputs, 2, axis=-1))
        return DiagonalNormal(outputs, jnp.full_like(outputs, log(self.scale)))


class LearnedScale(nn.Module):
    """A decoder of means that appends one learned log scale, initially 0, to every mean."""

    net: nn.Module  # [*lead, Z] -> [*lead, *D]

    @nn.compact
    def __call__(self, z: Float[Array, "*lead_and_code"]) -> Float[Array, "*lead_and_outputs"]:
        mean = self.net(z)
        log_scale = self.param("log_scale", nn.initializers.zeros, (1,))
        return jnp.concatenate([mean, jnp.broadcast_to(log_scale.reshape(*[1] * mean.ndim), mean.shape)], axis=-1)
