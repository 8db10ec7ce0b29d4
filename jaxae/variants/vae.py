"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae import nets
from jaxae.core import divergences
from jaxae.core import kl_term as rates
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.experiment import Prior
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import Bernoulli, Likelihood, log_likelihood


class VAE(nn.Module):
    """q(z|x) = N(mean, scale^2), both from the encoder; p(x|z) from the decoder; p(z) = N(0, I)."""

    encoder: nn.Module  # [B, *D] -> [B, 2 Z]: mean and log scale side by side
    decoder: nn.Module  # [*lead, Z] -> [*lead, *P]: the parameters of the likelihood
    likelihood: Likelihood = Bernoulli()

    def __call__(
        self, x: Float[Array, "B *D"], eps: Float[Array, "B Z"] | None = None
    ) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """Posterior, and the decoder output at z = mean + scale * eps (at the mean without eps)."""
        q = self.posterior(x)
        return q, self.decoder(q.mean if eps is None else reparameterize(q, eps))

    def posterior(self, x: Float[Array, "B *D"]) -> DiagonalNormal:
        """q(z|x). The encoder's input is log(1 + x) for counts (Lopez et al. 2018), x for other data."""
        seen = jnp.log1p(x) if self.likelihood.data == "counts" else x
        return DiagonalNormal(*jnp.split(self.encoder(seen), 2, axis=-1))

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B Z"]:
        """The mean of q(z|x): deterministic."""
        return self.posterior(x).mean

    def log_prior(self, z: Float[Array, "N Z"]) -> Float[Array, " N"]:
        """log p(z)."""
        return divergences.log_normal(divergences.standard_normal(z), z)

    def outputs(self, z: Float[Array, "B Z"]) -> Float[Array, "B *P"]:
        """The parameters of p(x|z)."""
        return self.decoder(z)

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """The mean of p(x|z)."""
        return self.likelihood.mean(self.decoder(z))


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    latent: int,
    likelihood: Likelihood,
    *,
    mean: Float[np.ndarray, "*D"] | None = None,
    **options: Any,
) -> tuple[nn.Module, nn.Module, Likelihood]:
    """Encoder, decoder and likelihood of a `VAE` of dense layers for examples of this shape.

    hidden: widths of the encoder; the decoder mirrors them. mean: initial mean of p(x|z), by the decoder's output
    bias (default: a bias of 0). options: arguments of both nets.
    """
    bias = () if mean is None else tuple(likelihood.initial(mean).ravel().tolist())
    encoder = nets.MLP(hidden, (2 * latent,), axes=len(shape), **options)
    decoder = nets.MLP(hidden[::-1], likelihood.parameters(shape), last_bias=bias, **options)
    return encoder, likelihood.decoder(decoder), likelihood


def reparameterize(q: DiagonalNormal, eps: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
    """z = mean + scale * eps, differentiable in both (Kingma & Welling 2014, equation 10 and section 2.4)."""
    return q.mean + q.scale * eps


def sample_posterior(
    model: VAE, variables: Variables, batch: Batch, key: Key[Array, ""]
) -> tuple[DiagonalNormal, Float[Array, "B Z"]]:
    """q(z|x) of a batch, and one sample of each."""
    q: DiagonalNormal = model.apply(variables, batch.x, method="posterior")  # type: ignore[assignment]
    return q, reparameterize(q, batch.noise(key, q.mean.shape[1:]))


def reconstruction(
    model: VAE, variables: Variables, batch: Batch, z: Float[Array, "B Z"]
) -> tuple[Float[Array, " B"], Float[Array, "B *P"]]:
    """-log p(x|z) of every example, in nats, and the parameters of p(x|z)."""
    outputs: jax.Array = model.apply(variables, z, method="outputs")  # type: ignore[assignment]
    return -log_likelihood(model.likelihood, outputs, batch.x, batch.observed), outputs


def prior(latent: int, scale: float = 1.0) -> Prior:
    """Codes from p(z) = N(0, scale^2 I)."""
    return lambda variables, key, n: scale * jax.random.normal(key, (n, latent))  # noqa: ARG005


def loss(model: VAE, rate: rates.Rate = rates.BOUND) -> Loss:
    """The negative evidence lower bound with one sample (Kingma & Welling 2014, equation 7), in nats per example.

    rate: KL term of the loss (see `kl_term`); with weight 1 the loss is the negative ELBO.
    Terms: `loss` = `reconstruction` (-log p(x|z)) + rate of `kl`, nats per example, and the likelihood's `errors`.
    """

    def negative_elbo(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q, z = sample_posterior(model, variables, batch, key)
        error, outputs = reconstruction(model, variables, batch, z)
        kl = divergences.kl_normal_terms(q)
        return {
            "loss": error + rate(kl, batch),
            "reconstruction": error,
            "kl": divergences.per_example(kl),
            **model.likelihood.errors(outputs, batch.x, batch.observed),
        }, {}

    return negative_elbo
