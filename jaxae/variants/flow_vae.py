"""Normalizing flows as posterior (Rezende & Mohamed 2015) and as prior (Chen et al. 2017) of an autoencoder."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.experiment import Prior
from jaxae.core.types import Extra, Variables
from jaxae.variants import iwae, vae
from jaxae.variants.flows import Flow


class FlowVAE(vae.VAE, kw_only=True):
    """A variational autoencoder whose codes are z = f(z0, h), for a flow f and samples z0 of `posterior`.

    The encoder's outputs beyond the 2 Z of mean and log scale are the context h. p(z) is the density of N(0, I) under
    the prior flow. Parameter groups: encoder, decoder, posterior_flow, prior_flow.
    """

    latent: int  # Z
    posterior_flow: Flow | None = None  # f; None: the identity
    prior_flow: Flow | None = None  # None: p(z) = N(0, I)

    def __call__(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """q(z0|x), and the decoder output at the code of its mean."""
        z = self.encode(x, c)
        self.log_prior(z, c)
        return self.posterior(x, c), self.outputs(z, c)

    def posterior(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> DiagonalNormal:
        """q(z0|x), before the flow."""
        return self._normal_and_context(x, c)[0]

    def encode(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> Float[Array, "B Z"]:
        """f(z0, h) at the mean of q(z0|x)."""
        q, context = self._normal_and_context(x, c)
        return self._flow(q.mean, context)[0]

    def flow(
        self, z: Float[Array, "B S Z"], x: Float[Array, "B *D"], c: vae.Condition = None
    ) -> tuple[Float[Array, "B S Z"], Float[Array, "B S"]]:
        """f(z0, h) and log |det df / dz0|, for samples z0 of `posterior`."""
        return self._flow(z, self._normal_and_context(x, c)[1][:, None])

    def log_prior(self, z: Float[Array, "N Z"], c: vae.Condition = None) -> Float[Array, " N"]:
        """log p(z) = log N(u; 0, I) + log |det du / dz|, for z = flow(u)."""
        if self.prior_flow is None:
            return super().log_prior(z, c)
        u, log_det = self.prior_flow.inverse(z)
        return super().log_prior(u, c) + log_det

    def kl(self, q: DiagonalNormal, c: vae.Condition = None) -> Float[Array, "B Z"]:
        """Raise NotImplementedError, since the density of a flow is known only at its samples."""
        raise NotImplementedError("KL(q || p) of a flow has no closed form; use flow_vae.loss or iwae.loss")

    def from_noise(self, u: Float[Array, "N Z"]) -> Float[Array, "N Z"]:
        """Samples of p(z), from samples of N(0, I)."""
        return u if self.prior_flow is None else self.prior_flow.forward(u)[0]

    def _normal_and_context(self, x: jax.Array, c: vae.Condition) -> tuple[DiagonalNormal, jax.Array]:
        parameters, context = jnp.split(self.encoded(x, c), [2 * self.latent], axis=-1)
        return vae.normal(parameters), context

    def _flow(self, z: jax.Array, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.posterior_flow is None:
            return z, jnp.zeros(z.shape[:-1])
        return self.posterior_flow.forward(z, context if context.shape[-1] else None)


def prior(model: FlowVAE) -> Prior:
    """Samples from p(z), the same under every condition."""

    def sample(variables: Variables, key: Key[Array, ""], n: int, *condition: jax.Array) -> Float[Array, "N Z"]:  # noqa: ARG001
        return model.apply(variables, jax.random.normal(key, (n, model.latent)), method="from_noise")  # type: ignore[return-value]

    return sample


def loss(model: FlowVAE, kl_weight: Weight = 1.0) -> Loss:
    """The negative evidence lower bound with one sample, whose KL term is log q(z|x) - log p(z).

    log q(z|x) = log q(z0|x) - log |det df / dz0| (Rezende & Mohamed 2015, equations 13 and 15). Terms: `loss`,
    `reconstruction`, `kl`, nats per example; the likelihood's `errors`.
    """

    def negative_elbo(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        c = vae.condition_of(model, batch)
        q: Any = model.apply(variables, batch.x, *c, method="posterior")
        z = q.samples(batch.noise(key, (1, q.size)))
        found, outputs = iwae.decoded(model, variables, (batch.x, batch.observed, *c), q, z)
        error, kl = -found.likelihood[:, 0], (found.posterior - found.prior)[:, 0]
        return {
            "loss": error + batch.scheduled(kl_weight) * kl,
            "reconstruction": error,
            "kl": kl,
            **model.likelihood.errors(outputs, batch.x, batch.observed),
        }, {}

    return negative_elbo
