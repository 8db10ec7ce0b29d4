"""The importance weighted autoencoder (Burda, Grosse & Salakhutdinov 2016), and its doubly reparameterized gradient."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import mean, noise
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants.rate import Weight
from jaxae.variants.vae import VAE, Likelihood


class Terms(NamedTuple):
    """Of K draws z from q(z|x), per example, in nats."""

    likelihood: Float[Array, "B K"]  # log p(x|z)
    prior: Float[Array, "B K"]  # log p(z)
    posterior: Float[Array, "B K"]  # log q(z|x)

    def log_weights(self, weight: Weight = 1.0) -> Float[Array, "B K"]:
        """log w = log p(x, z) / q(z|x). weight: of what stands for the divergence, log p(z) / q(z|x)."""
        return self.likelihood + weight * (self.prior - self.posterior)


# (variables, x, q(z|x), z) -> terms
TermsOf: TypeAlias = Callable[
    [dict[str, Any], Float[Array, "B *D"], prob.Normal, Float[Array, "B K Z"]],
    Terms,
]


def terms(model: VAE, log_likelihood: Likelihood = prob.bernoulli) -> TermsOf:
    """The terms of the importance weights of a variational model."""

    def of(variables: dict[str, Any], x: jax.Array, q: prob.Normal, z: jax.Array) -> Terms:
        b, k, units = z.shape
        flat = z.reshape(b * k, units)
        decoded: Any = model.apply(variables, flat, method="logits")
        prior: Any = model.apply(variables, flat, method="log_prior")
        wide = prob.Normal(*(jnp.repeat(part, k, axis=0) for part in q))
        each = (log_likelihood(decoded, jnp.repeat(x, k, axis=0)), prior, prob.normal(wide, flat))
        return Terms(*(values.reshape(b, k) for values in each))

    return of


def draws(q: prob.Normal, eps: Float[Array, "B K Z"]) -> Float[Array, "B K Z"]:
    """z_k = mean + scale * eps_k."""
    return q.mean[:, None] + jnp.exp(q.log_scale)[:, None] * eps


def loss(
    model: VAE,
    samples: int,
    gradient: Literal["plain", "dreg"] = "plain",
    log_likelihood: Likelihood = prob.bernoulli,
    weight: Weight = 1.0,
) -> Loss:
    """The negative importance weighted bound (Burda et al. 2016, equation 8) with K = `samples`, nats per example.

    gradient: plain, or dreg: the encoder's is doubly reparameterized (Tucker et al. 2018, equation 8), which has the
    same expectation and does not drown in noise as K grows. weight: of the divergence within log w, for a warm-up.
    Metrics: `loss`; `elbo`, the mean of log w over the samples, which is the bound of K = 1.
    """
    of = terms(model, log_likelihood)
    bound = (_doubly_reparameterized if gradient == "dreg" else _plain)(of, jnp.float32(weight))

    def negative_bound(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        q: Any = model.apply(variables, batch.x, method="posterior")
        z = draws(q, noise(key, batch, (samples, q.mean.shape[1])))
        value, elbo = bound(variables, batch.x, q, z)
        metrics = {"loss": mean(-value, batch), "elbo": mean(elbo, batch)}
        return metrics["loss"], (extra, metrics)

    return negative_bound


def _bounds(log_weights: Float[Array, "B K"]) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    return prob.importance_weighted(log_weights), log_weights.mean(1)


def _plain(of: TermsOf, weight: Float[Array, ""]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return lambda *args: _bounds(of(*args).log_weights(weight))


def _doubly_reparameterized(of: TermsOf, weight: Float[Array, ""]) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """The bound whose derivative is sum_k w_k d log w_k in the decoder and sum_k w_k^2 d log w_k / dz_k in the draws.

    w_k are the normalized weights, and q within log w is held fixed: the encoder learns through the draws alone.
    """

    @jax.custom_vjp
    def bound(
        variables: Any, x: jax.Array, q: prob.Normal, z: jax.Array, weight: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return _bounds(of(variables, x, q, z).log_weights(weight))

    def forward(variables: Any, x: jax.Array, q: prob.Normal, z: jax.Array, weight: jax.Array) -> Any:
        log_weights, pull = jax.vjp(lambda variables, z: of(variables, x, q, z).log_weights(weight), variables, z)
        fixed = jax.tree.map(jnp.zeros_like, (x, q, weight))
        return _bounds(log_weights), (pull, jax.nn.softmax(log_weights, axis=1), fixed)

    def backward(saved: Any, slopes: tuple[jax.Array, jax.Array]) -> Any:
        pull, weights, (x, q, weight) = saved
        variables, z = pull(slopes[0][:, None] * weights)  # the metric `elbo` has no derivative
        return variables, x, q, weights[..., None] * z, weight

    bound.defvjp(forward, backward)
    return lambda *args: bound(*args, weight)
