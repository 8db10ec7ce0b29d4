"""The activation rule JumpReLU, with straight-through gradients (Rajamanoharan et al. 2024, "Jumping Ahead")."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.divergences import per_example
from jaxae.variants.dictionary import Rule, Weights


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def step(u: Float[Array, "B n"], threshold: Float[Array, "1 n"], bandwidth: float) -> Float[Array, "B n"]:
    """H(u - t), with pseudo-derivatives -K((u - t) / e) / e with respect to t (equation 12) and 0 with respect to u.

    K is the rectangle function, 1 within 1/2 of 0. bandwidth: e.
    """
    del bandwidth
    return (u > threshold).astype(u.dtype)


@step.defjvp
def _step_jvp(
    bandwidth: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Float[Array, "B n"]]:
    return step(*primals, bandwidth), -within(*primals, bandwidth) / bandwidth * tangents[1]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def jump_relu(u: Float[Array, "B n"], threshold: Float[Array, "1 n"], bandwidth: float) -> Float[Array, "B n"]:
    """u H(u - t), with pseudo-derivatives -t K((u - t) / e) / e with respect to t (equation 11) and H(u - t) to u."""
    del bandwidth
    return jnp.where(u > threshold, u, 0)


@jump_relu.defjvp
def _jump_relu_jvp(
    bandwidth: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Float[Array, "B n"]]:
    u, threshold = primals
    slope = threshold / bandwidth * within(u, threshold, bandwidth)
    return jump_relu(u, threshold, bandwidth), jnp.where(u > threshold, tangents[0], 0) - slope * tangents[1]


def within(u: Float[Array, "B n"], threshold: Float[Array, "1 n"], bandwidth: float) -> Float[Array, "B n"]:
    """K((u - t) / e)."""
    return (jnp.abs(u - threshold) < bandwidth / 2).astype(u.dtype)


@dataclass(frozen=True)
class JumpReLU(Rule):
    """u = v W + b where it exceeds a learned threshold, else 0; the penalty is the number of active latents.

    The parameter is the threshold itself, not its logarithm, since Adam changes a parameter by about the learning rate
    per step, which hardly changes a small threshold through its logarithm. The threshold must be kept non-negative (see
    `constraints.py`).
    """

    threshold: float = 1.0  # initial value
    bandwidth: float = 1.0

    @property
    def parameters(self) -> Mapping[str, float]:
        """The initial threshold of every latent."""
        return {"threshold": self.threshold}

    @property
    def of_codes(self) -> tuple[str, ...]:
        """The threshold is in units of the codes."""
        return ("threshold",)

    def codes(self, v: Float[Array, "B d"], weights: Weights) -> Float[Array, "B n"]:
        """Codes of centred inputs."""
        return jump_relu(weights.preactivations(v), weights.own["threshold"][None], self.bandwidth)

    def penalty(
        self,
        v: Float[Array, "B d"],
        weights: Weights,
        z: Float[Array, "B n"],  # noqa: ARG002
    ) -> Float[Array, " B"]:
        """Number of active latents."""
        return per_example(step(weights.preactivations(v), weights.own["threshold"][None], self.bandwidth))
