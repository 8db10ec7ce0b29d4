"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014)."""

from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae import nets
from jaxae.core import divergences
from jaxae.core import kl_term as rates
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.conditions import condition
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.experiment import Prior
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import Bernoulli, Likelihood, log_likelihood

Condition: TypeAlias = Float[Array, "B K"] | None  # None for an unconditional model


class VAE(nn.Module):
    """q(z|x) = N(mean, scale^2), both from the encoder; p(x|z) from the decoder; p(z) = N(0, I)."""

    encoder: nn.Module  # [B, *D] -> [B, 2 Z]: mean and log scale, concatenated
    decoder: nn.Module  # [*lead, Z] -> [*lead, *P]: the parameters of the likelihood
    likelihood: Likelihood = Bernoulli()
    classes: int | None = None  # number of classes of a conditional model; None for an unconditional one

    def __call__(self, x: Float[Array, "B *D"], c: Condition = None) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """Posterior, and the decoder output at its mean."""
        q = self.posterior(x, c)
        return q, self.outputs(q.mean, c)

    def posterior(self, x: Float[Array, "B *D"], c: Condition = None) -> DiagonalNormal:
        """q(z|x, c)."""
        return normal(self.encoded(x, c))

    def encoded(self, x: Float[Array, "B *D"], c: Condition = None) -> Any:
        """The encoder's output: [B, E]; of a hierarchy, the features of all layers.

        Its input is log(1 + x) for counts (Lopez et al. 2018), x for other data.
        """
        return self.encoder(with_condition(jnp.log1p(x) if self.likelihood.data == "counts" else x, c))

    def flow(
        self,
        z: Float[Array, "B S Z"],
        x: Float[Array, "B *D"],  # noqa: ARG002
        c: Condition = None,  # noqa: ARG002
    ) -> tuple[Float[Array, "B S Z"], Float[Array, "B S"]]:
        """Map samples of `posterior` to codes, with log |det| of the Jacobian: here the identity (see `flow_vae`)."""
        return z, jnp.zeros(z.shape[:2])

    def encode(self, x: Float[Array, "B *D"], c: Condition = None) -> Float[Array, "B Z"]:
        """The mean of q(z|x, c)."""
        return self.posterior(x, c).mean

    def log_prior(self, z: Float[Array, "N Z"], c: Condition = None) -> Float[Array, " N"]:  # noqa: ARG002
        """log p(z)."""
        return divergences.log_normal(divergences.standard_normal(z), z)

    def kl(self, q: DiagonalNormal, c: Condition = None) -> Float[Array, "B Z"]:  # noqa: ARG002
        """KL(q || p(z)), a term per latent dimension."""
        return divergences.kl_normal_terms(q)

    def outputs(self, z: Float[Array, "B Z"], c: Condition = None) -> Float[Array, "B *P"]:
        """The parameters of p(x|z, c)."""
        return self.decoder(with_condition(z, c))

    def decode(self, z: Float[Array, "B Z"], c: Condition = None) -> Float[Array, "B *D"]:
        """The mean of p(x|z, c)."""
        return self.likelihood.mean(self.outputs(z, c))


def normal(output: Float[Array, "B *Z2"]) -> DiagonalNormal:
    """A normal distribution from the output of a net, mean and log scale concatenated."""
    return DiagonalNormal(*jnp.split(output, 2, axis=-1))


def with_condition(x: Float[Array, "B *D"], c: Condition) -> Float[Array, "B *E"]:
    """The input of a net: x, or flattened x concatenated with the condition, [B, D + K]."""
    return x if c is None else jnp.concatenate([x.reshape(len(x), -1), c], axis=1)


def condition_of(model: VAE, batch: Batch) -> tuple[Float[Array, "B K"], ...]:
    """The condition of a batch, the last argument of a conditional model's methods; () for an unconditional model."""
    return () if model.classes is None else (condition(batch.y, batch.context, model.classes),)


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    latent: int,
    likelihood: Likelihood,
    *,
    mean: Float[np.ndarray, "*D"] | None = None,
    conditional: bool = False,
    **options: Any,
) -> tuple[nn.Module, nn.Module, Likelihood]:
    """Encoder, decoder and likelihood of a `VAE` of dense layers for examples of this shape.

    hidden: widths of the encoder; the decoder mirrors them. mean: initial mean of p(x|z), by the decoder's output
    bias (default: a bias of 0). conditional: whether the model has a condition. options: arguments of both nets.
    """
    bias = () if mean is None else tuple(likelihood.initial(mean).ravel().tolist())
    encoder = nets.MLP(hidden, (2 * latent,), axes=1 if conditional else len(shape), **options)
    decoder = nets.MLP(hidden[::-1], likelihood.parameters(shape), last_bias=bias, **options)
    return encoder, likelihood.decoder(decoder), likelihood


def reparameterize(q: DiagonalNormal, eps: Float[Array, "B *Z"]) -> Float[Array, "B *Z"]:
    """z = mean + scale * eps, differentiable in both (Kingma & Welling 2014, equation 10 and section 2.4)."""
    return q.mean + q.scale * eps


def sample_posterior(
    model: VAE, variables: Variables, batch: Batch, key: Key[Array, ""]
) -> tuple[DiagonalNormal, Float[Array, "B Z"]]:
    """q(z|x) of a batch, and one sample of each."""
    c = condition_of(model, batch)
    q: DiagonalNormal = model.apply(variables, batch.x, *c, method="posterior")  # type: ignore[assignment]
    return q, reparameterize(q, batch.noise(key, q.mean.shape[1:]))


def reconstruction(
    model: VAE, variables: Variables, batch: Batch, z: Float[Array, "B Z"]
) -> tuple[Float[Array, " B"], Float[Array, "B *P"]]:
    """-log p(x|z) of every example, in nats, and the parameters of p(x|z)."""
    outputs: Any = model.apply(variables, z, *condition_of(model, batch), method="outputs")
    return -log_likelihood(model.likelihood, outputs, batch.x, batch.observed), outputs


def prior(latent: int, scale: float = 1.0) -> Prior:
    """Samples from p(z) = N(0, scale^2 I), the same under every condition."""
    return lambda variables, key, n, *condition: scale * jax.random.normal(key, (n, latent))  # noqa: ARG005


def loss(model: VAE, rate: rates.Rate = rates.BOUND) -> Loss:
    """The negative evidence lower bound with one sample (Kingma & Welling 2014, equation 7), in nats per example.

    rate: KL term of the loss (see `kl_term`); with weight 1 the loss is the negative ELBO.
    Terms: `loss` = `reconstruction` (-log p(x|z)) + `rate(kl)`, and `kl`, nats per example; the likelihood's `errors`.
    """

    def negative_elbo(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q, z = sample_posterior(model, variables, batch, key)
        error, outputs = reconstruction(model, variables, batch, z)
        kl: Any = model.apply(variables, q, *condition_of(model, batch), method="kl")
        return {
            "loss": error + rate(kl, batch),
            "reconstruction": error,
            "kl": divergences.per_example(kl),
            **model.likelihood.errors(outputs, batch.x, batch.observed),
        }, {}

    return negative_elbo
