"""The importance weighted autoencoder (Burda, Grosse & Salakhutdinov 2016), with other bounds and gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import log_likelihood
from jaxae.variants.bounds import IMPORTANCE_WEIGHTED, Bounds, Gradient
from jaxae.variants.vae import VAE, condition_of


@runtime_checkable
class Posterior(Protocol):
    """q(z|x) of B examples, a pytree: a `DiagonalNormal`, or that of a hierarchy."""

    @property
    def size(self) -> int:
        """Number of latent dimensions."""

    def samples(self, eps: Float[Array, "B K Z"]) -> Float[Array, "B K Z"]:
        """K samples per example from standard normal noise, differentiable in both."""

    def log_prob(self, z: Float[Array, "B K Z"]) -> Float[Array, "B K"]:
        """log q(z|x)."""


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
DensitiesOf: TypeAlias = Callable[[Variables, Data, Posterior, Float[Array, "B K Z"]], LogDensities]


def densities(model: VAE) -> DensitiesOf:
    """The log densities in the importance weights of a variational model."""
    return lambda variables, data, q, z: decoded(model, variables, data, q, z)[0]


def decoded(
    model: VAE, variables: Variables, data: Data, q: Posterior, z: Float[Array, "B K Z"]
) -> tuple[LogDensities, Float[Array, "BK *P"]]:
    """The log densities at z, and the parameters of p(x|z)."""
    b, k, dimensions = z.shape
    flowed: Any = model.apply(variables, z, data[0], *data[2:], method="flow")
    codes, log_det = flowed
    x, observed, *c = jax.tree.map(lambda part: jnp.repeat(part, k, axis=0), data)
    flat = codes.reshape(b * k, dimensions)
    outputs: Any = model.apply(variables, flat, *c, method="outputs")
    prior: Any = model.apply(variables, flat, *c, method="log_prior")
    likelihood = log_likelihood(model.likelihood, outputs, x, observed)
    posterior = q.log_prob(z) - log_det
    return LogDensities(likelihood.reshape(b, k), prior.reshape(b, k), posterior), outputs


def loss(
    model: VAE,
    samples: int,
    gradient: Gradient = "plain",
    kl_weight: Weight = 1.0,
    bounds: Bounds = IMPORTANCE_WEIGHTED,
) -> Loss:
    """The negative importance weighted bound (Burda et al. 2016, equation 8) with K = `samples`, nats per example.

    gradient: of the encoder. plain; dreg, the doubly reparameterized gradient (Tucker et al. 2019, equation 8), with
    the same expectation and a signal-to-noise ratio that does not fall with K; stl, sticking the landing (Roeder, Wu &
    Duvenaud 2017), which omits the derivative of log q(z|x) at a fixed z: with the same expectation for the evidence
    lower bound, biased for other bounds. kl_weight: weight of the KL term within log w, for KL warm-up. bounds: other
    bounds of decoder and encoder; `loss` is that of the decoder. In a model with a posterior flow, dreg, stl and the
    encoder's bound apply to q(z0|x) alone; the flow and its context follow the plain gradient of the decoder's bound.
    Terms: `loss`; `elbo`, the mean over the samples of log w with `kl_weight` = 1, an estimate of the bound for K = 1.
    """
    bound = _bound(densities(model), gradient, bounds)

    def negative_bound(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        c = condition_of(model, batch)
        q: Any = model.apply(variables, batch.x, *c, method="posterior")
        z = q.samples(batch.noise(key, (samples, q.size)))
        data = (batch.x, batch.observed, *c)
        value, elbo = bound(variables, data, q, z, jnp.float32(batch.scheduled(kl_weight)))
        return {"loss": -value, "elbo": elbo}, {}

    return negative_bound


def _bound(
    of: DensitiesOf, gradient: Gradient, bounds: Bounds
) -> Callable[..., tuple[Float[Array, " B"], Float[Array, " B"]]]:
    """The bound and the evidence lower bound, as functions of variables, data, q, z and KL weight.

    The derivative in the variables of p(x, z) is sum_k s_k d log w_k, s_k the slopes of the decoder's bound; in q and
    z, on which the encoder acts, those of the encoder's bound replace them. stl and dreg hold q within log w fixed,
    and dreg multiplies the derivative in z_k by the factors of the bound: for the importance weighted bound with the KL
    weight c,

        sum_k ((1 - c) v_k + c v_k^2) d log w_k / dz_k,

    v_k being the normalized weights; c = 1 gives equation 8 of Tucker et al. 2019.
    """

    @jax.custom_vjp
    def bound(
        variables: Any, data: Any, q: Posterior, z: jax.Array, kl_weight: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return values(of(variables, data, q, z), kl_weight)

    def values(found: LogDensities, kl_weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        return bounds.decoder.value(found.log_weights(kl_weight)), found.log_weights().mean(1)

    def forward(variables: Any, data: Any, q: Posterior, z: jax.Array, kl_weight: jax.Array) -> Any:
        def log_weights(variables: Any, q: Posterior, z: jax.Array) -> tuple[jax.Array, LogDensities]:
            found = of(variables, data, q, z)
            return found.log_weights(kl_weight), found

        log_w, pull, found = jax.vjp(log_weights, variables, q, z, has_aux=True)
        return values(found, kl_weight), (pull, log_w, kl_weight, data)

    def backward(saved: Any, cotangents: tuple[jax.Array, jax.Array]) -> Any:
        pull, log_w, kl_weight, data = saved
        slope = cotangents[0][:, None]  # the term `elbo` has no derivative
        variables, q, z = pull(slope * bounds.decoder.slopes(log_w))
        if bounds.encoder != bounds.decoder:
            _, q, z = pull(slope * bounds.encoder.slopes(log_w))
        if gradient != "plain":
            q = jax.tree.map(jnp.zeros_like, q)
        if gradient == "dreg":
            z = bounds.encoder.factors(log_w, kl_weight)[..., None] * z
        return variables, jax.tree.map(jnp.zeros_like, data), q, z, jnp.zeros_like(kl_weight)

    bound.defvjp(forward, backward)
    return bound
