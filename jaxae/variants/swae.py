"""The sliced-Wasserstein autoencoder (Kolouri, Pope, Martin & Rohde 2019)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Variables
from jaxae.variants import autoencoder


def sliced_wasserstein(
    x: Float[Array, "N Z"], y: Float[Array, "N Z"], directions: Float[Array, "L Z"]
) -> Float[Array, ""]:
    """The squared sliced 2-Wasserstein distance of two samples (Kolouri et al. 2019, section 3).

    The mean over unit directions of the squared Wasserstein distance of the projections: the mean squared difference of
    the sorted projections.
    """
    difference = jnp.sort(x @ directions.T, axis=0) - jnp.sort(y @ directions.T, axis=0)
    return jnp.mean(difference**2)


def loss(model: autoencoder.Autoencoder, weight: Weight, directions: int) -> Loss:
    """Squared error + weight * squared sliced 2-Wasserstein distance of the codes and N(0, I).

    directions: number of random directions in each step. Training only, since the distance needs the global batch (see
    `Batch.gather`). Terms: `loss`; `reconstruction`, squared error summed over the values of an example; `distance`.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        prior, where, dropout = jax.random.split(key, 3)
        (z, before), updates = autoencoder.apply(model, variables, batch, batch.x, dropout)
        error = per_example((model.output(before) - batch.x) ** 2)
        normal = jax.random.normal(where, (directions, z.shape[1]))
        unit = normal / jnp.linalg.norm(normal, axis=1, keepdims=True)
        samples = batch.gather(batch.noise(prior, z.shape[1:]))
        distance = batch.repeat(sliced_wasserstein(batch.gather(z), samples, unit))
        total = error + batch.scheduled(weight) * distance
        return {"loss": total, "reconstruction": error, "distance": distance}, updates

    return objective
