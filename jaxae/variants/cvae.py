"""The conditional variational autoencoder (Sohn, Lee & Yan 2015): a prior that depends on the condition.

Conditional models use the encoder and decoder of `vae.VAE`, and `vae.loss`.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from jaxae.core import divergences
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.experiment import Prior
from jaxae.core.types import Variables
from jaxae.variants import vae


class CVAE(vae.VAE, kw_only=True):
    """A conditional variational autoencoder. Parameter groups: encoder, decoder, prior."""

    prior: nn.Module | None = None  # [B, K] -> [B, 2 Z]: mean and log scale of p(z|c); None: p(z) = N(0, I)

    def __call__(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """Posterior, and the decoder output at its mean."""
        q, outputs = super().__call__(x, c)
        self.prior_of(c, q.mean)
        return q, outputs

    def prior_of(self, c: vae.Condition, z: Float[Array, "B Z"]) -> DiagonalNormal:
        """p(z|c), with the shape of the codes z."""
        return divergences.standard_normal(z) if self.prior is None else vae.normal(self.prior(c))

    def log_prior(self, z: Float[Array, "N Z"], c: vae.Condition = None) -> Float[Array, " N"]:
        """log p(z|c)."""
        return divergences.log_normal(self.prior_of(c, z), z)

    def kl(self, q: DiagonalNormal, c: vae.Condition = None) -> Float[Array, "B Z"]:
        """KL(q || p(z|c)), a term per latent dimension (Sohn et al. 2015, equation 4)."""
        return divergences.kl_normals_terms(q, self.prior_of(c, q.mean))


def prior(model: CVAE, latent: int) -> Prior:
    """Samples from p(z|c), or from p(z) of a model without conditions."""

    def sample(variables: Variables, key: Key[Array, ""], n: int, c: vae.Condition = None) -> Float[Array, "n Z"]:
        eps = jax.random.normal(key, (n, latent))
        p: DiagonalNormal = model.apply(variables, c, eps, method="prior_of")  # type: ignore[assignment]
        return vae.reparameterize(p, eps)

    return sample
