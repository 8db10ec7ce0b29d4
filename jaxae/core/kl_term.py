"""How the KL term KL(q(z|x) || p(z)), the rate, enters the loss of a variational model.

A weight may be a function of the training step: a schedule of Optax, or `cyclical`.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxae.core.batch import Batch, Weight
from jaxae.core.divergences import per_example

Rate: TypeAlias = Callable[
    [Float[Array, "B Z"], Batch], Float[Array, " B"]
]  # KL of each latent dimension -> term of the loss, nats


def weighed(weight: Weight) -> Rate:
    """weight * KL: beta-VAE (Higgins et al. 2017, equation 4); 1 is the evidence lower bound."""
    return lambda kl, batch: batch.scheduled(weight) * per_example(kl)


BOUND = weighed(1.0)


def capacity(weight: Weight, nats: Weight) -> Rate:
    """weight * |KL - nats|: a target for the KL term (Burgess et al. 2018, equation 8)."""
    return lambda kl, batch: batch.scheduled(weight) * jnp.abs(per_example(kl) - batch.scheduled(nats))


def free_bits(weight: Weight, nats: float) -> Rate:
    """weight * sum over latent dimensions of max(nats, mean KL over the batch).

    Kingma et al. 2016, equation 15. Not with microbatches: see `Batch.mean`.
    """

    def rate(kl: Float[Array, "B Z"], batch: Batch) -> Float[Array, " B"]:
        return batch.repeat(batch.scheduled(weight) * jnp.sum(jnp.maximum(nats, batch.mean(kl))))

    return rate


def cyclical(steps: float, cycles: int, rising: float = 0.5) -> optax.Schedule:
    """Cyclical KL warm-up, from 0 to 1 in each of `cycles` within `steps`, then 1 (Fu et al. 2019, equation 6).

    rising: fraction of a cycle, at most 1, in which the weight rises linearly; it is 1 in the rest.
    """

    def weight(step: Int[Array, ""]) -> Float[Array, ""]:
        part = jnp.mod(step, steps / cycles) * (cycles / steps)
        return jnp.where(step < steps, jnp.minimum(part / rising, 1), 1.0)

    return weight


def scaled(weight: Weight, schedule: Weight) -> Weight:
    """weight * schedule, a function of the step where the schedule is one."""
    if not callable(schedule):
        return weight * schedule

    def product(step: Int[Array, ""]) -> Float[Array, ""]:
        return weight * schedule(step)

    return product
