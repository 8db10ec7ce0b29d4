"""The KL term KL(q(z|x) || p(z)), or rate, in the loss of a variational model.

A weight may be a function of the training step: an Optax schedule, or `cyclical`.
"""

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxae.core.batch import Batch, Weight
from jaxae.core.divergences import per_example

Rate: TypeAlias = Callable[
    [Float[Array, "B Z"], Batch], Float[Array, " B"]
]  # KL of each latent dimension -> term of the loss, nats


def weighted(weight: Weight) -> Rate:
    """weight * KL: beta-VAE (Higgins et al. 2017, equation 4); weight 1 gives the ELBO."""
    return lambda kl, batch: batch.scheduled(weight) * per_example(kl)


BOUND = weighted(1.0)
CapacityOf: TypeAlias = Literal["example", "batch"]


def capacity(weight: Weight, nats: Weight, of: CapacityOf = "example") -> Rate:
    """weight * |KL - nats|: a target for the KL term (Burgess et al. 2018, equation 8).

    of: example, the KL of each example; or batch, its mean over the batch, as in disentanglement_lib (Locatello et al.
    2019). ValueError for the mean over the batch with microbatches (see `Batch.mean`).
    """

    def rate(kl: Float[Array, "B Z"], batch: Batch) -> Float[Array, " B"]:
        total = per_example(kl)
        if of == "batch":
            total = batch.repeat(batch.mean(total))
        return batch.scheduled(weight) * jnp.abs(total - batch.scheduled(nats))

    return rate


def free_bits(weight: Weight, nats: float) -> Rate:
    """weight * sum over latent dimensions of max(nats, mean KL over the batch).

    Kingma et al. 2016, equation 15. ValueError for microbatches (see `Batch.mean`).
    """

    def rate(kl: Float[Array, "B Z"], batch: Batch) -> Float[Array, " B"]:
        return batch.repeat(batch.scheduled(weight) * jnp.sum(jnp.maximum(nats, batch.mean(kl))))

    return rate


def rate(
    weight: Weight, warmup: Weight = 1.0, *, target: float = 0.0, of: CapacityOf = "example", free: float = 0.0
) -> Rate:
    """The KL term: `capacity` if there is a target in nats, `free_bits` if there are free nats, otherwise `weighted`.

    warmup: multiplies the target if there is one, else the weight. of: see `capacity`. ValueError for both a target and
    free nats, and for of="batch" without a target.
    """
    if target and free:
        raise ValueError(f"capacity={target} excludes free_bits={free}; choose one of the two")
    if of == "batch" and not target:
        raise ValueError("capacity_of=batch needs a target of the KL term; set capacity=NATS")
    if target:
        return capacity(weight, scaled(target, warmup), of)
    return free_bits(scaled(weight, warmup), free) if free else weighted(scaled(weight, warmup))


def warmup(epochs: float, cycles: int, examples: int, batch_size: int) -> Weight:
    """KL warm-up over this many epochs, a factor of the KL weight at each training step; 1 without warm-up.

    cycles: with more than 1, the factor rises in the first half of each. An epoch is examples / batch_size steps.
    ValueError for cycles without warm-up.
    """
    if not epochs:
        if cycles > 1:
            raise ValueError(f"kl_cycles={cycles} needs a KL warm-up; set kl_warmup=EPOCHS")
        return 1.0
    return cyclical(_exact(epochs) * examples / batch_size, cycles, rising=0.5 if cycles > 1 else 1.0)


def cyclical(steps: float | Fraction, cycles: int, rising: float = 0.5) -> optax.Schedule:
    """Cyclical KL warm-up, from 0 to 1 in each of `cycles` within `steps`, then 1 (Fu et al. 2019, equation 6).

    rising: fraction of a cycle, at most 1, in which the weight rises linearly; it is 1 in the rest.
    """
    period = _exact(steps) / cycles
    # The first step of each cycle is exact, since a rounded quotient would leave the weight of some of them at 1.
    starts = np.array([ceil(cycle * period) for cycle in range(cycles + 1)])

    def weight(step: Int[Array, ""]) -> Float[Array, ""]:
        done = jnp.sum(step >= starts[1:])  # cycles
        part = jnp.maximum(step - done * float(period), 0) / float(period)
        return jnp.where(done < cycles, jnp.minimum(part / rising, 1), 1.0)

    return weight


def _exact(number: float | Fraction) -> Fraction:
    """The fraction that a decimal number stands for: a tenth for 0.1."""
    return Fraction(number).limit_denominator(10**9)


def scaled(weight: Weight, schedule: Weight) -> Weight:
    """weight * schedule; a function of the step if the schedule is a function."""
    if not callable(schedule):
        return weight * schedule

    def product(step: Int[Array, ""]) -> Float[Array, ""]:
        return weight * schedule(step)

    return product
