"""Likelihoods of pixels in [0, 1] as levels: their log masses are nats per level, not densities.

Grey values between levels are rounded. Bits per dimension are comparable with those of other models of 8-bit images.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Terms
from jaxae.core.divergences import clipped, mean_over_observed
from jaxae.likelihoods.base import Data
from jaxae.likelihoods.invert import invert

LEVELS = 256
WIDTH = 1 / (LEVELS - 1)  # of a bin
LOG_SCALES = (-12.0, 3.0)  # limits; a scale of 6.1e-6 is a 640th of a bin, one of 20 leaves 97 % to black and white


@dataclass(frozen=True)
class DiscretizedLogisticMixture:
    """A mixture of `components` logistic distributions per dimension, discretized to 256 levels in [0, 1].

    Salimans, Karpathy, Chen & Kingma 2017 (PixelCNN++), section 2.1, without their dependence between colours: the mass
    of a level is that of the bin around it; those of 0 and 1 include the tails. Log scales are clipped to [-12, 3], as
    in `DiagonalNormal`; mass and gradient are finite in float32 for outputs of up to 1e9.
    """

    components: int = 5
    data: ClassVar[Data] = "levels"

    def __post_init__(self) -> None:
        """Raise ValueError for fewer than one component."""
        if self.components < 1:
            raise ValueError(f"components={self.components} must be at least 1")

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Logits of the components, locations and log scales, concatenated along the last axis."""
        return (*shape[:-1], 3 * self.components * shape[-1])

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net itself."""
        return net

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*P"]:
        """Equal components of scale 0.14 with this mean, between 0.001 and 0.999."""
        log_scale = -2.0
        location = invert(lambda middle: _clipped_mean(middle, jnp.full_like(middle, log_scale)), mean, 2.0)
        parts = (np.zeros_like(mean), location, np.full_like(mean, log_scale))
        return np.concatenate([part for part in parts for _ in range(self.components)], axis=-1)

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log mass of the level of every dimension, in nats."""
        logits, location, log_scale = self._parts(outputs)
        middle = (jnp.round(x * (LEVELS - 1)) * WIDTH)[..., None, :]
        precision = jnp.exp(-log_scale)
        above, below = ((middle + side * WIDTH / 2 - location) * precision for side in (1, -1))
        lowest, highest = middle < WIDTH / 2, middle > 1 - WIDTH / 2
        # s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)), s the logistic function: no factor cancels
        log_mass = (
            jnp.where(highest, 0.0, nn.log_sigmoid(above))
            + jnp.where(lowest, 0.0, nn.log_sigmoid(-below))
            + jnp.where(lowest | highest, 0.0, jnp.log(-jnp.expm1(-WIDTH * precision)))
        )
        return jax.nn.logsumexp(nn.log_softmax(logits, axis=-2) + log_mass, axis=-2)

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """The mean before rounding, of logistic distributions whose tails are moved to 0 and 1; in [0, 1].

        It differs from E[x|z] by less than half a level.
        """
        logits, location, log_scale = self._parts(outputs)
        return jnp.sum(nn.softmax(logits, axis=-2) * _clipped_mean(location, log_scale), axis=-2)

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """Levels in [0, 1]."""
        which, where = jax.random.split(key)
        logits, location, log_scale = self._parts(outputs)
        chosen = jax.random.categorical(which, logits, axis=-2)[..., None, :]
        middle, width = (
            jnp.take_along_axis(part, chosen, axis=-2)[..., 0, :] for part in (location, jnp.exp(log_scale))
        )
        x = middle + width * jax.random.logistic(where, middle.shape)
        return jnp.round(jnp.clip(x, 0, 1) * (LEVELS - 1)) * WIDTH

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse`, squared error of the mean, pixels in [0, 1]: means over the observed pixels."""
        return {"mse": mean_over_observed((self.mean(outputs) - x) ** 2, observed)}

    def _parts(self, outputs: Float[Array, "B *P"]) -> tuple[Any, Any, Any]:
        """Logits, locations and log scales within their limits: each [B, *, components, C], of channels C."""
        parts = outputs.reshape(*outputs.shape[:-1], 3, self.components, -1)
        logits, location, log_scale = (parts[..., i, :, :] for i in range(3))
        return logits, location, clipped(log_scale, *LOG_SCALES)


def _clipped_mean(location: Float[Array, "*D"], log_scale: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """Mean of a logistic distribution with its tails moved to 0 and 1: the integral of 1 - F from 0 to 1."""
    scale = jnp.exp(log_scale)
    distance = jnp.abs(location - 0.5)  # by symmetry; so that neither term is large
    beyond = scale * (nn.softplus((0.5 - distance) / scale) - nn.softplus((-0.5 - distance) / scale))
    return jnp.where(location > 0.5, 1 - beyond, beyond)


@dataclass(frozen=True)
class Categorical:
    """A probability for each of `levels` levels of every dimension, evenly spaced in [0, 1].

    With 2 levels it is the Bernoulli likelihood with two logits. It is finite in float32 for outputs of up to 1e9.
    """

    levels: int = LEVELS
    data: ClassVar[Data] = "levels"

    def __post_init__(self) -> None:
        """Raise ValueError for fewer than two levels."""
        if self.levels < 2:
            raise ValueError(f"levels={self.levels} must be at least 2")

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A logit per level of each dimension, concatenated along the last axis."""
        return (*shape[:-1], self.levels * shape[-1])

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net itself."""
        return net

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*P"]:
        """Logits that are linear in the level, with this mean, between 0.001 and 0.999."""

        def linear(slope: Float[Any, "*D"]) -> Float[Any, "*P"]:
            return jnp.concatenate([level * slope for level in np.linspace(0, 1, self.levels)], axis=-1)

        return np.asarray(linear(invert(lambda slope: self.mean(linear(slope)), mean, 2000.0)))

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log mass of the level of every dimension, in nats."""
        place = jnp.clip(jnp.round(x * (self.levels - 1)), 0, self.levels - 1).astype(jnp.int32)
        logs = nn.log_softmax(self._logits(outputs), axis=-2)
        return jnp.take_along_axis(logs, place[..., None, :], axis=-2)[..., 0, :]

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """Pixels in [0, 1]."""
        probabilities = nn.softmax(self._logits(outputs), axis=-2)
        return jnp.dot(jnp.moveaxis(probabilities, -2, -1), jnp.linspace(0, 1, self.levels), precision="highest")

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """Levels in [0, 1]."""
        return jax.random.categorical(key, self._logits(outputs), axis=-2) / (self.levels - 1)

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse`, squared error of the mean, pixels in [0, 1]: means over the observed pixels."""
        return {"mse": mean_over_observed((self.mean(outputs) - x) ** 2, observed)}

    def _logits(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D_levels_C"]:
        return outputs.reshape(*outputs.shape[:-1], self.levels, -1)
