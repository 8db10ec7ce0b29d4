"""The activation rule of the gated sparse autoencoder (Rajamanoharan et al. 2024, "Improving Dictionary Learning")."""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.divergences import per_example
from jaxae.variants.dictionary import Rule, Weights, product


@dataclass(frozen=True)
class Gated(Rule):
    """Codes are H(v W + b) relu(exp(r) v W + m): the gate decides which latents are active (equations 6 and 7).

    The penalty is the L1 norm of the rectified gate. The auxiliary error is that of the reconstruction from the
    rectified gate, in which the decoder has no gradient (equation 8). `magnitude` is r, `magnitude_bias` m.
    """

    @property
    def parameters(self) -> Mapping[str, float]:
        """Initial values, with which the magnitudes equal the gate."""
        return {"magnitude": 0.0, "magnitude_bias": 0.0}

    @property
    def of_codes(self) -> tuple[str, ...]:
        """The bias is in units of the codes."""
        return ("magnitude_bias",)

    def codes(self, v: Float[Array, "B d"], weights: Weights) -> Float[Array, "B n"]:
        """Codes of centred inputs."""
        u = product(v, weights.encoder, weights.precision)
        magnitude = nn.relu(jnp.exp(weights.own["magnitude"])[None] * u + weights.own["magnitude_bias"][None])
        return jnp.where(u + weights.encoder_bias[None] > 0, magnitude, 0)

    def penalty(
        self,
        v: Float[Array, "B d"],
        weights: Weights,
        z: Float[Array, "B n"],  # noqa: ARG002
    ) -> Float[Array, " B"]:
        """L1 norm of the rectified gate."""
        return per_example(nn.relu(weights.preactivations(v)))

    def error(self, v: Float[Array, "B d"], weights: Weights) -> Float[Array, " B"]:
        """Squared error of the reconstruction from the rectified gate; the decoder and its bias get no gradient."""
        frozen = jax.lax.stop_gradient((v, weights.decoder))
        gate = nn.relu(weights.preactivations(v))
        return per_example((frozen[0] - product(gate, frozen[1], weights.precision)) ** 2)
