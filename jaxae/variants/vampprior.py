"""The VampPrior (Tomczak & Welling 2018): the prior is the mean posterior of images that are learned."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import mean, noise
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants import iwae, vae
from jaxae.variants.rate import Weight


class VampVAE(vae.VAE):
    """A variational autoencoder with p(z) = (1 / K) sum_k q(z|u_k). Groups: encoder, decoder, pseudo_inputs."""

    shape: tuple[int, ...]  # of an example
    components: int  # K

    def setup(self) -> None:
        # Logits of the images u: they start near a half, each a little different.
        start = nn.initializers.normal(0.5)
        self.pseudo_inputs = self.param("pseudo_inputs", start, (self.components, *self.shape))

    def mixture(self) -> prob.Normal:
        """q(z|u_k) for every k."""
        return self.posterior(nn.sigmoid(self.pseudo_inputs))

    def log_prior(self, z: Float[Array, "N Z"]) -> Float[Array, " N"]:
        """log p(z) (Tomczak & Welling 2018, equation 9)."""
        q = self.mixture()
        each = prob.normal_units(prob.Normal(*(part[None] for part in q)), z[:, None])
        return prob.importance_weighted(each.sum(2))


def prior(model: VampVAE) -> vae.Prior:
    """Codes from p(z): a learned image, then a draw from its posterior."""

    def sample(variables: dict[str, Any], key: Key[Array, ""], n: int) -> Float[Array, "N Z"]:
        which, where = jax.random.split(key)
        q: Any = model.apply(variables, method="mixture")
        chosen = jax.random.randint(which, (n,), 0, model.components)
        return vae.reparameterize(
            prob.Normal(*(part[chosen] for part in q)), jax.random.normal(where, (n, q.mean.shape[1]))
        )

    return sample


def loss(model: VampVAE, weight: Weight = 1.0) -> Loss:
    """The negative evidence lower bound with one sample, whose divergence is log q(z|x) - log p(z) (equation 2).

    weight: of the divergence (a warm-up). Metrics: `loss`, `reconstruction`, `kl`, nats per example.
    """
    of = iwae.terms(model)

    def negative_elbo(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        q: Any = model.apply(variables, batch.x, method="posterior")
        terms = of(variables, batch.x, q, iwae.draws(q, noise(key, batch, (1, q.mean.shape[1]))))
        values = {"reconstruction": -terms.likelihood[:, 0], "kl": (terms.posterior - terms.prior)[:, 0]}
        values["loss"] = values["reconstruction"] + weight * values["kl"]
        metrics = {name: mean(value, batch) for name, value in values.items()}
        return metrics["loss"], (extra, metrics)

    return negative_elbo
