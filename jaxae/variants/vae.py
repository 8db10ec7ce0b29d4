"""The variational autoencoder (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import mean, noise
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants import rate as rates

Likelihood = Callable[[Float[Array, "B *D"], Float[Array, "B *D"]], Float[Array, " B"]]  # (what is decoded, x) -> nats
Prior = Callable[[dict[str, Any], Key[Array, ""], int], Float[Array, "N Z"]]  # (variables, key, N) -> codes


class VAE(nn.Module):
    """q(z|x) = N(mean, scale^2), both from the encoder; p(x|z) from the decoder; p(z) = N(0, I)."""

    encoder: nn.Module  # [B, *D] -> [B, 2 Z]: mean and log scale side by side
    decoder: nn.Module  # [*lead, Z] -> [*lead, *D]: logits

    def __call__(
        self, x: Float[Array, "B *D"], eps: Float[Array, "B Z"] | None = None
    ) -> tuple[prob.Normal, Float[Array, "B *D"]]:
        """Posterior, and the logits at z = mean + scale * eps (at the mean without eps)."""
        q = self.posterior(x)
        return q, self.decoder(q.mean if eps is None else reparameterize(q, eps))

    def posterior(self, x: Float[Array, "B *D"]) -> prob.Normal:
        """q(z|x)."""
        return prob.Normal(*jnp.split(self.encoder(x), 2, axis=-1))

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B Z"]:
        """The mean of q(z|x): deterministic."""
        return self.posterior(x).mean

    def log_prior(self, z: Float[Array, "N Z"]) -> Float[Array, " N"]:
        """log p(z)."""
        return prob.normal(prob.Normal(jnp.zeros_like(z), jnp.zeros_like(z)), z)

    def logits(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """What the decoder gives."""
        return self.decoder(z)

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """The mean of p(x|z): pixels in [0, 1]."""
        return nn.sigmoid(self.decoder(z))


def reparameterize(q: prob.Normal, eps: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
    """z = mean + scale * eps, differentiable in both (Kingma & Welling 2014, equation 10 and section 2.4)."""
    return q.mean + jnp.exp(q.log_scale) * eps


def prior(latent: int) -> Prior:
    """Codes from p(z) = N(0, I)."""
    return lambda variables, key, n: jax.random.normal(key, (n, latent))  # noqa: ARG005


def loss(model: VAE, log_likelihood: Likelihood = prob.bernoulli, rate: rates.Rate = rates.BOUND) -> Loss:
    """The negative evidence lower bound with one sample (Kingma & Welling 2014, equation 7), in nats per example.

    rate: how the divergence counts; the bound has it with weight 1.
    Metrics: `loss` = `reconstruction` (-log p(x|z)) + rate of `kl`, nats per example.
    For the default, a Bernoulli, also `bce` (nats per pixel) and `mse` (pixels in [0, 1]), means over pixels.
    """

    def negative_elbo(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        latent = jax.eval_shape(lambda: model.apply(variables, batch.x, method="encode")).shape[1:]
        eps = noise(key, batch, latent)
        (q, logits), changed = model.apply(variables, batch.x, eps, mutable=list(extra))
        kl = prob.kl_units(q)
        terms = {"reconstruction": -log_likelihood(logits, batch.x), "kl": prob.per_example(kl)}
        terms["loss"] = terms["reconstruction"] + rate(kl, batch)
        if log_likelihood is prob.bernoulli:
            pixels = logits[0].size
            terms["bce"] = terms["reconstruction"] / pixels
            terms["mse"] = prob.per_example((nn.sigmoid(logits) - batch.x) ** 2) / pixels
        metrics = {name: mean(values, batch) for name, values in terms.items()}
        return metrics["loss"], (dict(changed), metrics)

    return negative_elbo
