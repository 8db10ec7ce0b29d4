"""What a variational model pays for its code, the rate KL(q(z|x) || p(z)), and how its bound may weigh it.

A weight that changes while training is a schedule of Optax (`optax.linear_schedule` for a warm-up), or `cyclical`,
given to a loss within `step.scheduled`.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae import prob
from jaxae.batch import pooled
from jaxae.types import Batch

Weight: TypeAlias = float | Float[Array, ""]
Rate: TypeAlias = Callable[
    [Float[Array, "B Z"], Batch], Float[Array, " B"]
]  # KL of each unit -> term of the loss, nats


def weighed(weight: Weight) -> Rate:
    """weight * KL: beta-VAE (Higgins et al. 2017, equation 4); 1 is the evidence lower bound."""
    return lambda kl, _: weight * prob.per_example(kl)


BOUND = weighed(1.0)


def capacity(weight: Weight, nats: Weight) -> Rate:
    """weight * |KL - nats|: the code is to carry so much (Burgess et al. 2018, equation 8)."""
    return lambda kl, _: weight * jnp.abs(prob.per_example(kl) - nats)


def free_bits(weight: Weight, nats: float) -> Rate:
    """weight * sum over units of max(nats, mean KL over the batch): so much of each is free.

    Kingma et al. 2016, equation 15. Not with batches in parts: see `batch.pooled`.
    """

    def rate(kl: Float[Array, "B Z"], batch: Batch) -> Float[Array, " B"]:
        return jnp.broadcast_to(weight * jnp.sum(jnp.maximum(nats, pooled(kl, batch))), kl.shape[:1])

    return rate


def cyclical(steps: float, cycles: int, rising: float = 0.5) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """In each of the cycles that divide the steps from 0 to 1 in its first part, then 1 (Fu et al. 2019, equation 6).

    After the last step it stays at 1. rising: the part, of at most 1, in which it rises.
    """

    def weight(step: Int[Array, ""]) -> Float[Array, ""]:
        part = jnp.mod(step, steps / cycles) * (cycles / steps)
        return jnp.where(step < steps, jnp.minimum(part / rising, 1), 1.0)

    return weight
