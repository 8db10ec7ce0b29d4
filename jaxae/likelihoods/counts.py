"""Likelihoods of counts: Poisson and negative binomial, also zero-inflated, with a size factor for every example."""

from dataclasses import dataclass
from math import log, log1p, pi
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Terms
from jaxae.core.divergences import clipped, exp_remainder, mean_over_observed, per_example
from jaxae.likelihoods.base import Data
from jaxae.likelihoods.gamma import binet, binet_of_counts, binet_slope
from jaxae.likelihoods.location_scale import Learned

HALF_LOG_2PI = 0.5 * log(2 * pi)
INITIAL_INFLATION = 0.05  # probability of an additional zero before training
LOG_INFLATION = log(INITIAL_INFLATION) - log1p(-INITIAL_INFLATION)  # its logit
LOG_2 = (709 / 1024, log(2) - 709 / 1024)


@dataclass(frozen=True)
class Poisson:
    """Poisson distributions, with log means from the decoder.

    total: mean total count of a training example. The means of p(x|z) are then multiplied by the size factor of the
    example, its own total (at least 1) divided by `total`, and p is the likelihood given the total; `mean` and `sample`
    are for a size factor of 1. The total of an example with missing counts is that of the observed ones. None: without
    a size factor.
    Log means, with the size factor, are clipped to [-20, 20], means to [2.1e-9, 4.8e8], as in `DiagonalNormal`; mass
    and gradient are finite in float32.
    """

    total: float | None = None
    data: ClassVar[Data] = "counts"

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One log mean per dimension."""
        return shape

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net itself."""
        return net

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*D"]:
        """The logarithm of this positive mean."""
        return np.log(mean)

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log mass of the count of every dimension, in nats.

        Computed as the error of Stirling's formula and half the deviance, which do not cancel for large counts (Loader
        2000, "Fast and accurate computation of binomial probabilities").
        """
        log_mean = self.log_means(outputs, x)
        half_deviance = _positive(x) * exp_remainder(_log_ratio(log_mean, x))
        return jnp.where(x > 0, _stirling(x) - half_deviance, -jnp.exp(log_mean))

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """The mean, for a size factor of 1."""
        return jnp.exp(clipped(self.log_parameters(outputs)[0]))

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """Counts, for a size factor of 1."""
        return jax.random.poisson(key, self.mean(outputs)).astype(outputs.dtype)

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse`, squared error of the mean with the size factor, in squared counts: means over observed dimensions."""
        return {"mse": mean_over_observed((jnp.exp(self.log_means(outputs, x)) - x) ** 2, observed)}

    def log_means(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log means with the size factor of each example, within their limits."""
        log_mean = self.log_parameters(outputs)[0]
        if self.total is None:
            return clipped(log_mean)
        factor = jnp.log(jnp.maximum(per_example(x), 1.0)) - log(self.total)
        return clipped(log_mean + factor.reshape(-1, *[1] * (log_mean.ndim - 1)))

    def log_parameters(self, outputs: Float[Array, "B *P"]) -> list[Any]:
        """The log mean without a size factor, and further parameters, before they are clipped: each [B, *D]."""
        return [outputs]


@dataclass(frozen=True)
class NegativeBinomial(Poisson):
    """Negative binomial distributions of mean m and variance m + m^2 / r.

    The decoder outputs log m for every dimension; the logarithm of the inverse dispersion r is a learned parameter of
    each place on the last axis, such as a gene, initially 0 (Lopez et al. 2018, scVI). For large r it is the Poisson
    likelihood. Size factor and limits are those of `Poisson`; r is clipped like a mean.
    shared: whether the outputs hold the same r for all examples; only that of the first one is then evaluated, in a
    third of the time.
    """

    shared: bool = False

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net; the log inverse dispersions are appended to its output."""
        return Learned(net, "log_inverse_dispersion", each=True)

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log mass of the count of every dimension, in nats; see `Poisson`."""
        log_r = self.log_parameters(outputs)[1]
        return _negative_binomial(self.log_means(outputs, x), clipped(log_r[:1] if self.shared else log_r), x)

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """Counts, for a size factor of 1: Poisson, with means from a gamma distribution."""
        rates, counts = jax.random.split(key)
        log_mean, log_r = (clipped(part) for part in self.log_parameters(outputs)[:2])
        log_rate = jax.random.loggamma(rates, jnp.exp(log_r)) + log_mean - log_r
        return jax.random.poisson(counts, jnp.exp(jnp.minimum(log_rate, 20.0))).astype(outputs.dtype)

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse` (see `Poisson`) and `inverse_dispersion`: means over observed dimensions."""
        r = jnp.exp(clipped(self.log_parameters(outputs)[1]))
        return super().errors(outputs, x, observed) | {"inverse_dispersion": mean_over_observed(r, observed)}

    def log_parameters(self, outputs: Float[Array, "B *P"]) -> list[Any]:
        """The log mean without a size factor, and the log inverse dispersion, before they are clipped."""
        return jnp.split(outputs, 2, axis=-1)


@dataclass(frozen=True)
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial distributions of mean m, mixed with zeros: p(x) = pi [x = 0] + (1 - pi) NB(x; m, r).

    The decoder outputs log m and the logit of pi for every dimension (Lopez et al. 2018, scVI). E[x] = (1 - pi) m.
    Initially pi is `INITIAL_INFLATION`.
    """

    def parameters(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A log mean and a logit per dimension, concatenated along the last axis."""
        return (*shape[:-1], 2 * shape[-1])

    def decoder(self, net: nn.Module) -> nn.Module:
        """The net; the log inverse dispersions are appended to its output."""
        return Learned(net, "log_inverse_dispersion", blocks=2, each=True)

    def initial(self, mean: Float[np.ndarray, "*D"]) -> Float[np.ndarray, "*P"]:
        """The logarithm of this positive mean divided by 1 - pi, and the logit of pi."""
        return np.concatenate([np.log(mean) - log1p(-INITIAL_INFLATION), np.full_like(mean, LOG_INFLATION)], axis=-1)

    def log_prob(self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Log mass of the count of every dimension, in nats."""
        counted, logit = super().log_prob(outputs, x), self.log_parameters(outputs)[2]
        return jnp.where(x > 0, counted, jnp.logaddexp(logit, counted)) - nn.softplus(logit)

    def mean(self, outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """E[x|z], for a size factor of 1."""
        return nn.sigmoid(-self.log_parameters(outputs)[2]) * super().mean(outputs)

    def sample(self, key: Key[Array, ""], outputs: Float[Array, "B *P"]) -> Float[Array, "B *D"]:
        """Counts, for a size factor of 1."""
        counts, zeros = jax.random.split(key)
        inflated = jax.random.bernoulli(zeros, nn.sigmoid(self.log_parameters(outputs)[2]))
        return jnp.where(inflated, 0, super().sample(counts, outputs))

    def errors(
        self, outputs: Float[Array, "B *P"], x: Float[Array, "B *D"], observed: Float[Array, "B *O"] | None = None
    ) -> Terms:
        """`mse` of E[x|z], `inverse_dispersion` (see `NegativeBinomial`) and `inflation`, pi: means over dimensions."""
        pi = nn.sigmoid(self.log_parameters(outputs)[2])
        error = ((1 - pi) * jnp.exp(self.log_means(outputs, x)) - x) ** 2
        found = super().errors(outputs, x, observed)
        return {**found, "mse": mean_over_observed(error, observed), "inflation": mean_over_observed(pi, observed)}

    def log_parameters(self, outputs: Float[Array, "B *P"]) -> list[Any]:
        """The log mean without a size factor, the log inverse dispersion, and the logit of pi."""
        log_mean, logit, log_r = jnp.split(outputs, 3, axis=-1)
        return [log_mean, log_r, logit]


@jax.custom_jvp
def _negative_binomial(
    log_mean: Float[Array, "B *D"], log_r: Float[Array, "R *D"], x: Float[Array, "B *D"]
) -> Float[Array, "B *D"]:
    """Log mass of counts; log_r: of each example, or [1, *D].

    The derivative is in closed form, since automatic derivatives take five times as long.
    """
    r, count = jnp.exp(log_r), _positive(x)
    stirling = _stirling(x) + binet_of_counts(count, r) - binet(r) - 0.5 * jnp.log1p(count / r)
    none = -r * jnp.log1p(jnp.exp(log_mean) / r)
    return jnp.where(x > 0, stirling - _deviance(count, r, _log_ratio(log_mean, x)), none)


@_negative_binomial.defjvp
def _negative_binomial_jvp(primals: tuple[Any, Any, Any], tangents: tuple[Any, Any, Any]) -> tuple[Array, Array]:
    """d/dlog m = r (x - m) / (m + r), and with w = (m - x) / (m + r)

    d/dlog r = r [log(1 - w) + w + x / (2 r (x + r)) + binet'(x + r) - binet'(r)],

    in which the logarithms of gamma functions at large r do not cancel. x is data, without a derivative.
    """
    log_mean, log_r, x = primals
    mean, r = jnp.exp(log_mean), jnp.exp(log_r)
    share = 1 / (mean + r)
    w = (mean - x) * share
    logs = jnp.where(jnp.abs(w) < 0.35, -_log1p_remainder(-w), jnp.log((x + r) * share) + w)
    slopes = jnp.where(x > 0, binet_of_counts(_positive(x), r, slope=True) - binet_slope(r), 0.0)
    of_r = r * (logs + slopes) + 0.5 * x / (x + r)
    return _negative_binomial(*primals), -r * w * tangents[0] + of_r * tangents[1]


def _positive(x: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """The counts, 1 in place of 0, for branches that are not used there."""
    return jnp.where(x > 0, x, 1.0)


def _log_ratio(log_mean: Float[Array, "*D"], x: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """log m - log x for counts x > 0, without the rounding error of log x where both are large and close.

    With x = f 2^k, the product of k and the first ten bits of log 2 is exact.
    """
    f, k = jnp.frexp(_positive(x))
    return (log_mean - k * LOG_2[0]) - jnp.log(f) - k * LOG_2[1]


def _stirling(x: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """The log mass of a count x > 0 under the Poisson distribution of mean x."""
    count = _positive(x)
    return -binet_of_counts(count, jnp.zeros_like(x[:1])) - 0.5 * jnp.log(count) - HALF_LOG_2PI


def _deviance(x: Float[Array, "B *D"], r: Float[Array, "R *D"], d: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
    """Half the deviance, (x + r) log((m + r) / (x + r)) - x log(m / x), of mean m = x e^d: 0 for d = 0.

    With w = x / (x + r) it is (x + r) K, K = log(1 - w + w e^d) - w d, the same for (1 - w, -d): evaluated for the
    smaller of w and 1 - w. Near d = 0, where the difference cancels, K = w (e^d - 1 - d) - (v - log(1 + v)) with
    v = w (e^d - 1).
    """
    d = jnp.where(x > r, -d, d)
    share, whole = jnp.minimum(x, r), x + r
    v = share / whole * jnp.expm1(d)
    near = whole * _log1p_remainder(v)
    return jnp.where(jnp.abs(d) < 0.5, share * exp_remainder(d) - near, whole * jnp.log1p(v) - share * d)


def _log1p_remainder(v: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """v - log(1 + v) to full relative precision for |v| < 0.35: log(1 + v) = 2 artanh(y) with y = v / (2 + v)."""
    y = v / (2 + v)
    return v * y - 2 * y**3 * (1 / 3 + y**2 * (1 / 5 + y**2 * (1 / 7 + y**2 * (1 / 9 + y**2 / 11))))
