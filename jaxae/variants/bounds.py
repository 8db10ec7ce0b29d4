"""Bounds on log p(x), functions of the log importance weights of K samples."""

from typing import Literal, NamedTuple

import jax
from jaxtyping import Array, Float

from jaxae.core.divergences import importance_weighted

# plain; sticking the landing; doubly reparameterized
Gradient = Literal["plain", "stl", "dreg"]


class Bound(NamedTuple):
    """The mean over groups of b mean(log w) + (1 - b) log(mean(w^(1 - a))) / (1 - a), each mean over a group.

    Groups of one sample, b = 1 or a = 1 give the evidence lower bound; one group with a = b = 0 gives the importance
    weighted bound (Burda, Grosse & Salakhutdinov 2016, equation 8). Several groups give the multiply importance
    weighted bound, and b > 0 its combination with the evidence lower bound (Rainforth et al. 2018, section 5). a is the
    order of the variational Renyi bound (Li & Turner 2016, section 3). With many samples that is not a lower bound for
    a < 0.
    """

    groups: int = 1  # a divisor of the number of samples
    elbo_weight: float = 0.0  # b
    alpha: float = 0.0  # a

    def value(self, log_weights: Float[Array, "B K"]) -> Float[Array, " B"]:
        """The bound, in nats."""
        log_w = self._grouped(log_weights)
        elbo = log_w.mean(1)
        order = 1 - self.alpha
        renyi = importance_weighted(order * log_w) / order if order else elbo
        return (self.elbo_weight * elbo + (1 - self.elbo_weight) * renyi).reshape(-1, self.groups).mean(1)

    def slopes(self, log_weights: Float[Array, "B K"]) -> Float[Array, "B K"]:
        """The derivative of the bound with respect to each log weight."""
        return jax.grad(lambda log_w: self.value(log_w).sum())(log_weights)

    def factors(self, log_weights: Float[Array, "B K"], kl_weight: Float[Array, ""]) -> Float[Array, "B K"]:
        """(s - c h) / s of slopes s, their derivatives h with respect to their own log weight, and the KL weight c.

        The doubly reparameterized gradient multiplies the gradient with respect to the samples by these factors, where
        q within log w is held fixed. This replaces the omitted term, -c s d log q(z|x) at a fixed z, whose expectation
        is that of -c h (d log w / dz) (Tucker et al. 2019, equation 5, for any function s of the samples).
        """
        log_w = self._grouped(log_weights)
        v = jax.nn.softmax((1 - self.alpha) * log_w, axis=1)
        part: float | Array = 1.0  # of the slopes that depends on the weights
        if self.elbo_weight:
            part = (1 - self.elbo_weight) * v / (self.elbo_weight / v.shape[1] + (1 - self.elbo_weight) * v)
        return (1 - kl_weight * (1 - self.alpha) * part * (1 - v)).reshape(log_weights.shape)

    def _grouped(self, log_weights: Float[Array, "B K"]) -> Float[Array, "BM k"]:
        return log_weights.reshape(-1, log_weights.shape[1] // self.groups)


class Bounds(NamedTuple):
    """The bounds that train the decoder and the encoder."""

    decoder: Bound = Bound()
    encoder: Bound = Bound()


IMPORTANCE_WEIGHTED = Bounds()


def of_samples(
    samples: int,
    *,
    groups: int = 1,
    groups_of: Literal["both", "encoder"] = "both",
    elbo_weight: float = 0.0,
    alpha: float = 0.0,
) -> Bounds:
    """The bounds of decoder and encoder for this number of samples: see `Bound`.

    groups_of: with "encoder", only the encoder's bound has groups: the partially importance weighted bound (Rainforth
    et al. 2018, section 5). ValueError for groups that do not divide the samples, and for a weight outside [0, 1].
    """
    if groups < 1 or samples % groups:
        raise ValueError(f"groups={groups} must divide samples={samples}")
    if not 0 <= elbo_weight <= 1:
        raise ValueError(f"elbo_weight={elbo_weight} must be in [0, 1]")
    grouped = Bound(groups, elbo_weight, alpha)
    return Bounds(grouped._replace(groups=1) if groups_of == "encoder" else grouped, grouped)
