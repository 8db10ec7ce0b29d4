"""InfoVAE (Zhao, Song & Ermon 2019), which also matches the aggregate posterior to p(z)."""

import jax
from jaxtyping import Array, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import kl_normal
from jaxae.core.mmd import SCALES, from_prior
from jaxae.core.types import Extra, Variables
from jaxae.variants import vae


def loss(model: vae.VAE, kl_weight: Weight, mmd_weight: Weight) -> Loss:
    """InfoVAE: -log p(x|z) + kl_weight * KL + mmd_weight * MMD^2 of q(z) and N(0, I).

    Zhao et al. 2019, equation 6, with kl_weight = 1 - alpha and mmd_weight = alpha + lambda - 1; weights 1 and 0 give
    the negative evidence lower bound. The kernel is the mean of those in `mmd`, so that k(x, x) = 1, as for a Gaussian.
    Training only, since it needs the global batch (see `Batch.gather`).
    Terms: `loss`, `reconstruction`, `kl`, in nats per example, and `mmd`.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        posterior, prior = jax.random.split(key)
        q, z = vae.sample_posterior(model, variables, batch, posterior)
        error, _ = vae.reconstruction(model, variables, batch, z)
        kl, mmd = kl_normal(q), from_prior(batch, z, prior) / len(SCALES)
        total = error + batch.scheduled(kl_weight) * kl + batch.scheduled(mmd_weight) * mmd
        return {"loss": total, "reconstruction": error, "kl": kl, "mmd": mmd}, {}

    return objective
