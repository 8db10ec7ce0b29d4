"""Base class of likelihoods of real numbers with a location and a scale."""

from dataclasses import dataclass
from math import exp, log
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae.core.batch import Terms
from jaxae.core.divergences import LOG_SCALE_LIMIT, clipped, mean_over_observed
from jaxae.likelihoods.base import Data


@dataclass(frozen=True)
class LocationScale:
    """Densities p(x|z) = f((x - location) / scale) / scale, the same in every dimension.

    scale: a number, the same for all; "learned", one parameter for all (Rybkin, Daniilidis & Levine 2021, section 3);
    "predicted", output by the decoder for every dimension. Scales are clipped to 2.1e-9 to 4.8e8 (see
    `DiagonalNormal`); a number outside raises ValueError. Density and gradient are finite in float32 for locations and
    values of up to 1e9.
    """

    scale: float | Literal["learned", "predicted"] = 1.0
    data: ClassVar[Data] = "real"

    def __post_init__(self) -> None:
        """Raise ValueError for an invalid scale."""
        if isinstance(self.scale, str):
            if self.scale not in ("learned", "predicted"):
                raise ValueError(f"scale={self.scale} is unknown; use a number, learned or predicted")
        elif not exp(-LOG_SCALE_LIMIT) <= self.scale <= exp(LOG_SCALE_LIMIT):
            raise ValueError(f"scale={self.scale} must be positive, from 2.1e-9 to 4.8e8")

    @property
    def blocks(self) -> int:
        """Number of parameters of a dimension that the decoder's net outputs."""
        return 2 if self.scale == "predicted" else 1

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A location per dimension; a predicted scale adds log scales, concatenated along the last axis."""
        return (*shape[:-1], self.blocks * shape[-1])

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net; with a learned scale, the log scale is appended to its output."""
        return Learned(net, "log_scale", self.blocks) if self.scale == "learned" else net

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*P"]:
        """The mean as location, with log scales of 0 appended if scales are predicted."""
        return np.concatenate([mean, *[np.zeros_like(mean)] * (self.blocks - 1)], axis=-1)

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """The location."""
        return self.split(outputs)[0]

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse`, squared error in squared units of x, and `scale`, in units of x: means over observed dimensions."""
        location, *_, log_scale = self.split(outputs)
        return {
            "mse": mean_over_observed((location - x) ** 2, observed),
            "scale": mean_over_observed(jnp.exp(clipped(log_scale)), observed),
        }

    def split(self, outputs: Float[Array, "B *P"]) -> list[Any]:
        """Location, further parameters, and the log scale before it is clipped: each [B, *D]."""
        if isinstance(self.scale, str):
            return jnp.split(outputs, self.blocks + (self.scale == "learned"), axis=-1)
        parts = jnp.split(outputs, self.blocks, axis=-1)
        return [*parts, jnp.full_like(parts[0], log(self.scale))]


class Learned(nn.Module):
    """A decoder that appends a learned parameter, initially 0, to the `blocks` outputs of every dimension."""

    net: nn.Module  # [*lead, Z] -> [*lead, *D], the last axis `blocks` times that of an example
    parameter: str  # its name
    blocks: int = 1
    each: bool = False  # one for each index along the last axis, not one for all

    @nn.compact
    def __call__(self, z: Float[Array, "*lead_and_code"]) -> Float[Array, "*lead_and_outputs"]:
        outputs = self.net(z)
        width = outputs.shape[-1] // self.blocks
        value: jax.Array = self.param(self.parameter, nn.initializers.zeros, (width if self.each else 1,))
        return jnp.concatenate([outputs, jnp.broadcast_to(value, (*outputs.shape[:-1], width))], axis=-1)
