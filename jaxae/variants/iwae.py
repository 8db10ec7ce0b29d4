"""The importance weighted autoencoder (Burda, Grosse & Salakhutdinov 2016), and its doubly reparameterized gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal, importance_weighted, log_normal
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import log_likelihood
from jaxae.variants.vae import VAE, condition_of


class LogDensities(NamedTuple):
    """Log densities at K samples z of q(z|x), per example, in nats."""

    likelihood: Float[Array, "B K"]  # log p(x|z)
    prior: Float[Array, "B K"]  # log p(z)
    posterior: Float[Array, "B K"]  # log q(z|x)

    def log_weights(self, kl_weight: float | Float[Array, ""] = 1.0) -> Float[Array, "B K"]:
        """log w = log p(x, z) / q(z|x). kl_weight: weight of its KL term, log q(z|x) / p(z)."""
        return self.likelihood + kl_weight * (self.prior - self.posterior)


# Examples x, their mask or None, and their condition, if the model is conditional.
Data: TypeAlias = tuple[Any, ...]
# (variables, data, q(z|x), z) -> densities
DensitiesOf: TypeAlias = Callable[[Variables, Data, DiagonalNormal, Float[Array, "B K Z"]], LogDensities]


def densities(model: VAE) -> DensitiesOf:
    """The log densities in the importance weights of a variational model."""
    return lambda variables, data, q, z: decoded(model, variables, data, q, z)[0]


def decoded(
    model: VAE, variables: Variables, data: Data, q: DiagonalNormal, z: Float[Array, "B K Z"]
) -> tuple[LogDensities, Float[Array, "BK *P"]]:
    """The log densities at z, and the parameters of p(x|z)."""
    b, k, dimensions = z.shape
    flowed: Any = model.apply(variables, z, data[0], *data[2:], method="flow")
    codes, log_det = flowed
    x, observed, *c = jax.tree.map(lambda part: jnp.repeat(part, k, axis=0), data)
    flat = codes.reshape(b * k, dimensions)
    outputs: Any = model.apply(variables, flat, *c, method="outputs")
    prior: Any = model.apply(variables, flat, *c, method="log_prior")
    wide = DiagonalNormal(*(jnp.repeat(part, k, axis=0) for part in q))
    each = (log_likelihood(model.likelihood, outputs, x, observed), prior, log_normal(wide, z.reshape(flat.shape)))
    found = LogDensities(*(values.reshape(b, k) for values in each))
    return found._replace(posterior=found.posterior - log_det), outputs


def samples_of(q: DiagonalNormal, eps: Float[Array, "B K Z"]) -> Float[Array, "B K Z"]:
    """z_k = mean + scale * eps_k."""
    return q.mean[:, None] + q.scale[:, None] * eps


def loss(model: VAE, samples: int, gradient: Literal["plain", "dreg"] = "plain", kl_weight: Weight = 1.0) -> Loss:
    """The negative importance weighted bound (Burda et al. 2016, equation 8) with K = `samples`, nats per example.

    gradient: plain, or dreg, the doubly reparameterized gradient of the encoder (Tucker et al. 2018, equation 8), with
    the same expectation and a signal-to-noise ratio that does not fall with K. kl_weight: weight of the KL term within
    log w, for KL warm-up.
    Terms: `loss`; `elbo`, the mean over the samples of log w with `kl_weight` = 1, an estimate of the bound for K = 1.
    """
    of = densities(model)
    bound = (_doubly_reparameterized if gradient == "dreg" else _plain)(of)

    def negative_bound(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        c = condition_of(model, batch)
        q: Any = model.apply(variables, batch.x, *c, method="posterior")
        z = samples_of(q, batch.noise(key, (samples, q.mean.shape[1])))
        data = (batch.x, batch.observed, *c)
        value, elbo = bound(variables, data, q, z, jnp.float32(batch.scheduled(kl_weight)))
        return {"loss": -value, "elbo": elbo}, {}

    return negative_bound


Bound: TypeAlias = Callable[..., tuple[Float[Array, " B"], Float[Array, " B"]]]


def _bounds(found: LogDensities, kl_weight: Float[Array, ""]) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    return importance_weighted(found.log_weights(kl_weight)), found.log_weights().mean(1)


def _plain(of: DensitiesOf) -> Bound:
    return lambda variables, data, q, z, kl_weight: _bounds(of(variables, data, q, z), kl_weight)


def _doubly_reparameterized(of: DensitiesOf) -> Bound:
    """The bound whose derivative is sum_k v_k d log w_k in the decoder, v_k the normalized weights, and in the samples

        sum_k ((1 - b) v_k + b v_k^2) d log w_k / dz_k,

    b the weight of the KL term: q within log w is held fixed, and the encoder learns through the samples only. The
    omitted term, -b v_k d log q(z_k|x) at a fixed z_k, has the expectation of -b (v_k - v_k^2) d log w_k / dz_k
    (Tucker et al. 2018, equation 5). Adding that to v_k gives the factor above; b = 1 gives their equation 8.
    """

    @jax.custom_vjp
    def bound(
        variables: Any, data: Any, q: DiagonalNormal, z: jax.Array, kl_weight: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return _bounds(of(variables, data, q, z), kl_weight)

    def forward(variables: Any, data: Any, q: DiagonalNormal, z: jax.Array, kl_weight: jax.Array) -> Any:
        def log_weights(variables: Any, z: jax.Array) -> tuple[jax.Array, LogDensities]:
            found = of(variables, data, q, z)
            return found.log_weights(kl_weight), found

        log_w, pull, found = jax.vjp(log_weights, variables, z, has_aux=True)
        fixed = jax.tree.map(jnp.zeros_like, (data, q, kl_weight))
        return _bounds(found, kl_weight), (pull, jax.nn.softmax(log_w, axis=1), kl_weight, fixed)

    def backward(saved: Any, slopes: tuple[jax.Array, jax.Array]) -> Any:
        pull, v, b, (data, q, zero) = saved
        variables, z = pull(slopes[0][:, None] * v)  # the term `elbo` has no derivative
        return variables, data, q, ((1 - b) + b * v)[..., None] * z, zero

    bound.defvjp(forward, backward)
    return bound
