"""The Wasserstein autoencoder WAE-MMD (Tolstikhin et al. 2018), which matches the aggregate posterior to p(z)."""

import jax
from jaxtyping import Array, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import per_example
from jaxae.core.mmd import from_prior
from jaxae.core.types import Extra, Variables
from jaxae.variants import autoencoder


def loss(model: autoencoder.Autoencoder, mmd_weight: Weight, error_weight: Weight = 1.0) -> Loss:
    """error_weight * squared error + mmd_weight * MMD^2 of codes and N(0, I) (Tolstikhin et al. 2018, algorithm 2).

    For a deterministic encoder. Training only, since it needs the global batch (see `Batch.gather`). Terms: `loss`,
    `reconstruction`, squared error summed over the pixels of an image, and `mmd`, both without their weights.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        (z, before), updates = autoencoder.apply(model, variables, batch, batch.x, key)
        error = per_example((model.output(before) - batch.x) ** 2)
        mmd = from_prior(batch, z, jax.random.clone(key))
        total = batch.scheduled(error_weight) * error + batch.scheduled(mmd_weight) * mmd
        return {"loss": total, "reconstruction": error, "mmd": mmd}, updates

    return objective
