"""The interface of likelihoods."""

from typing import Literal, Protocol, TypeAlias, runtime_checkable

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Terms
from jaxae.core.divergences import only_observed, per_example

# 0 and 1; grey values in [0, 1]; the same, rounded to levels; real numbers; non-negative integers
Data: TypeAlias = Literal["binary", "unit", "levels", "real", "counts"]


@runtime_checkable
class Likelihood(Protocol):
    """p(x|z) as a function of the decoder output. A frozen dataclass: hashable and stateless."""

    @property
    def data(self) -> Data:
        """The values of x. p is a density of unit and real ones, otherwise a probability mass function."""

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the decoder output for one example of this shape."""

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net as a decoder, with the likelihood's own parameters, if any."""

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*P"]:
        """The decoder output with this mean, to initialise the bias of a decoder's last layer."""

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """log p(x_d|z) of every dimension, in nats."""

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """E[x|z]."""

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """A sample from p(x|z)."""

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """Further metrics per example, means over dimensions, or over the observed ones."""


def log_likelihood(
    likelihood: Likelihood,
    outputs: Float[Array, "B *P"],
    x: Float[Array, "B *D"],
    observed: Float[Array, "B *O"] | None = None,
) -> Float[Array, " B"]:
    """log p(x|z) of every example, in nats: the sum over its dimensions, or over the observed ones.

    observed: 1 where x was measured, 0 where it is missing, with the shape of x or of its leading axes.
    """
    if observed is None:
        return per_example(likelihood.log_prob(outputs, x))
    return per_example(only_observed(likelihood.log_prob(outputs, only_observed(x, observed)), observed))
