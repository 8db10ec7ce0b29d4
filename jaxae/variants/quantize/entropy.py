"""Entropies of binary codes, whose bits are independent given the vector."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.batch import Batch


def binary_entropy(logits: Float[Array, "*P Z"]) -> Float[Array, "*P Z"]:
    """Entropy of bits with these log odds, in nats."""
    size = jnp.abs(logits)
    return jax.nn.softplus(size) - size * jax.nn.sigmoid(size)


def joint_entropy(logits: Float[Array, "N Z"], weight: Float[Array, " N"], batch: Batch) -> Float[Array, ""]:
    """Entropy of the mean over vectors of the distribution of the 2^Z codes, in nats.

    The code of a vector has independent bits with these log odds. The mean of the joint distribution is, exactly, the
    product of two matrices, the distributions of the first and of the second half of the bits, which needs no row of
    2^Z numbers per vector. weight: of each vector; their sum over the global batch is 1.
    """
    half = logits.shape[1] // 2
    first, second = (_product(part) for part in (logits[:, :half], logits[:, half:]))
    mean = batch.total(jnp.matmul((weight[:, None] * first).T, second, precision="highest"))
    return jnp.sum(_plogp(mean))


def marginal_entropy(logits: Float[Array, "N Z"], weight: Float[Array, " N"], batch: Batch) -> Float[Array, ""]:
    """The sum over bits of the entropy of the mean over vectors, in nats: an upper bound on `joint_entropy`."""
    white, black = (
        batch.total(jnp.matmul(weight, jax.nn.sigmoid(sign * logits), precision="highest")) for sign in (1, -1)
    )
    return jnp.sum(_plogp(white) + _plogp(black))


def _plogp(p: Float[Array, "*K"]) -> Float[Array, "*K"]:
    """-p log p, with a finite gradient at 0, where that of `jax.scipy.special.entr` is infinite."""
    return -p * jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))


def _product(logits: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """Probabilities of the K = 2^D combinations of bits, the first bit least significant."""
    joint = jnp.ones((len(logits), 1))
    for bit in range(logits.shape[1]):
        column = logits[:, bit : bit + 1]
        joint = jnp.concatenate([joint * jax.nn.sigmoid(-column), joint * jax.nn.sigmoid(column)], axis=1)
    return joint
