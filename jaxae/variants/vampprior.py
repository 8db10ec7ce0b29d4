"""The VampPrior (Tomczak & Welling 2018): the prior is a mixture of the posteriors of learned pseudo-inputs."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal, importance_weighted, log_normal_terms
from jaxae.core.experiment import Prior
from jaxae.core.types import Extra, Variables
from jaxae.variants import iwae, vae

LOG_SCALE = (-3.0, 1.0)  # log variances between -6 and 2
NOISE = 0.01  # standard deviation of the initial pseudo-inputs, pixels in [0, 1]


def around(pixels: float | Float[np.ndarray, "K *D"]) -> nn.initializers.Initializer:
    """Initial pseudo-inputs: these pixels (one value, or training images) plus normal noise of scale `NOISE`."""
    return lambda key, shape: pixels + NOISE * jax.random.normal(key, shape)


PIXELS = around(0.05)


class VampVAE(vae.VAE, kw_only=True):
    """A variational autoencoder with p(z) = (1 / K) sum_k q(z|u_k). Parameter groups: encoder, decoder, pseudo_inputs.

    Pseudo-inputs u are clipped to the range of the data (`limits`), and the log scale of posteriors to `LOG_SCALE`, as
    in the authors' code.
    """

    shape: tuple[int, ...]  # of an example
    components: int  # K
    start: nn.initializers.Initializer = PIXELS  # of the pseudo-inputs
    limits: tuple[float, float] = (0.0, 1.0)  # range of the data, to which pseudo-inputs are clipped

    def setup(self) -> None:
        self.pseudo_inputs = self.param("pseudo_inputs", self.start, (self.components, *self.shape))

    def posterior(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> DiagonalNormal:
        """q(z|x)."""
        mean, log_scale = super().posterior(x, c)
        return DiagonalNormal(mean, jnp.clip(log_scale, *LOG_SCALE))

    def mixture(self) -> DiagonalNormal:
        """q(z|u_k) for every k."""
        return self.posterior(jnp.clip(self.pseudo_inputs, *self.limits))

    def log_prior(self, z: Float[Array, "N Z"], c: vae.Condition = None) -> Float[Array, " N"]:  # noqa: ARG002
        """log p(z) (Tomczak & Welling 2018, equation 9)."""
        q = self.mixture()
        each = log_normal_terms(DiagonalNormal(*(part[None] for part in q)), z[:, None])
        return importance_weighted(each.sum(2))


def prior(model: VampVAE) -> Prior:
    """Samples from p(z): from the posterior of a random pseudo-input."""

    def sample(variables: Variables, key: Key[Array, ""], n: int) -> Float[Array, "N Z"]:
        which, where = jax.random.split(key)
        q: Any = model.apply(variables, method="mixture")
        chosen = jax.random.randint(which, (n,), 0, model.components)
        return vae.reparameterize(
            DiagonalNormal(*(part[chosen] for part in q)), jax.random.normal(where, (n, q.mean.shape[1]))
        )

    return sample


def loss(model: VampVAE, kl_weight: Weight = 1.0) -> Loss:
    """The negative evidence lower bound with one sample, whose KL term is log q(z|x) - log p(z) (equation 2).

    Terms: `loss`, `reconstruction`, `kl`, nats per example.
    """
    of = iwae.densities(model)

    def negative_elbo(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q, z = vae.sample_posterior(model, variables, batch, key)
        found = of(variables, (batch.x, batch.observed), q, z[:, None])
        error, kl = -found.likelihood[:, 0], (found.posterior - found.prior)[:, 0]
        return {"loss": error + batch.scheduled(kl_weight) * kl, "reconstruction": error, "kl": kl}, {}

    return negative_elbo
