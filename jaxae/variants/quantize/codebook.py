"""Codebooks: the nearest codes, their usage in a batch, k-means, and vectors that replace unused codes."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxae.core.batch import Batch, Terms
from jaxae.core.divergences import per_example
from jaxae.variants.quantize.base import Quantizer

DUPLICATE = 1e-6  # squared distance of vectors that are equal up to rounding, relative to their mean squared norm
Sampling: TypeAlias = Literal["uniform", "error"]


class WithCodebook(Quantizer):
    """A quantizer with K codes in a table. A subclass defines `book` and `assign`."""

    codes: int  # K
    latent: int  # Z

    @property
    def size(self) -> int:
        """The number of codes, K."""
        return self.codes

    @property
    def book(self) -> Float[Array, "K Z"]:
        """The codes."""
        raise NotImplementedError

    def embed(self, indices: Int[Array, "B *P"]) -> Float[Array, "B *P Z"]:
        """The codes with these indices."""
        return jnp.take(self.book, indices, axis=0)

    def nearest(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The nearest codes."""
        return self.book[nearest(z, self.book)]


def nearest(z: Float[Array, "*P Z"], codes: Float[Array, "K Z"]) -> Int[Array, "*P"]:
    """argmin_k |z - e_k| (van den Oord et al. 2017, equation 1); ties go to the first."""
    best = _best(z.reshape(-1, z.shape[-1]), codes)[0]
    return best.reshape(z.shape[:-1])


def _best(
    z: Float[Array, "N Z"], codes: Float[Array, "K Z"], allowed: Bool[Array, "K N"] | None = None
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """Index of the nearest code, and its z . e - |e|^2 / 2, which omits the |z|^2 that all codes share.

    Codes are rows, and the maximum and its first place are two reductions, since XLA on CPU vectorizes neither argmin
    nor a reduction over the last axis. For 512 codes this is 11 times as fast.
    """
    scores = jnp.matmul(codes, z.T, precision="highest") - 0.5 * per_example(codes**2)[:, None]
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
    scores = jax.lax.optimization_barrier(scores)  # else the second reduction might round differently
    highest, last = jnp.max(scores, axis=0), len(codes) - 1
    place = jnp.where(scores == highest[None], jnp.arange(len(codes))[:, None], last)
    return jnp.min(place, axis=0), highest


def moments(
    z: Float[Array, "B *P Z"], indices: Int[Array, "B *P"], k: int, batch: Batch
) -> tuple[Float[Array, "{k}"], Float[Array, "{k} Z"]]:
    """n_k and the sum of z over the vectors of the global batch with each index, divided by the number of vectors."""
    positions = indices[0].size
    flat = z.reshape(-1, z.shape[-1])
    weight = jnp.repeat(batch.weight, positions) / positions
    is_chosen = (indices.reshape(1, -1) == jnp.arange(k)[:, None]).astype(z.dtype)
    columns = jnp.concatenate([weight[:, None] * flat, weight[:, None]], axis=1)
    sums = batch.total(jnp.matmul(is_chosen, columns, precision="highest"))
    sums = sums / batch.total(jnp.sum(batch.weight))
    return sums[:, -1], sums[:, :-1]


def usage_terms(frequencies: Float[Array, " K"], batch: Batch) -> Terms:
    """`perplexity`, exp of the entropy of code usage, from 1 to K; `usage`, the fraction of codes in use."""
    return {
        "perplexity": batch.repeat(jnp.exp(jax.scipy.special.entr(frequencies).sum())),
        "usage": batch.repeat(jnp.mean(frequencies > 0)),
    }


def kmeans(
    z: Float[Array, "N Z"], k: int, key: Key[Array, ""], iterations: int
) -> tuple[Float[Array, "{k} Z"], Float[Array, "{k}"]]:
    """Centres of k-means (Lloyd 1982) from random vectors, and the fraction of the vectors nearest to each.

    A centre without vectors does not move.
    """
    start = z[jax.random.choice(key, len(z), (k,), replace=len(z) < k)]

    def counted(centres: Float[Array, "K Z"]) -> Float[Array, "K N"]:
        return (_best(z, centres)[0][None] == jnp.arange(k)[:, None]).astype(z.dtype)

    def step(_: jax.Array, centres: Float[Array, "K Z"]) -> Float[Array, "K Z"]:
        chosen = counted(centres)
        n = jnp.sum(chosen, axis=1)[:, None]
        return jnp.where(n > 0, jnp.matmul(chosen, z, precision="highest") / jnp.maximum(n, 1), centres)

    centres = jax.lax.fori_loop(0, iterations, step, start)
    return centres, jnp.mean(counted(centres), axis=1)


def replacements(
    z: Float[Array, "B *P Z"],
    codes: Float[Array, "K Z"],
    unused: Bool[Array, " K"],
    sampling: Sampling,
    batch: Batch,
    key: Key[Array, ""],
) -> tuple[Float[Array, "K Z"], Bool[Array, " K"]]:
    """A vector of the global batch for each code, the same on every device, and which unused codes to replace by it.

    A code is replaced only if its vector differs from all codes and from the vectors before it (with sampling="error":
    from those of unused codes before it).

    sampling: uniform, or error, with a probability proportional to the squared distance from the nearest code, so that
    few of the vectors are near a code (Arthur & Vassilvitskii 2007, k-means++).
    """
    vectors = batch.gather(z.reshape(len(z), -1, z.shape[-1])).reshape(-1, z.shape[-1])
    if sampling == "uniform":
        fresh, others = sampled(vectors, len(codes), key), jnp.ones_like(unused)  # as in the recorded runs
    else:
        error = jnp.maximum(per_example(vectors**2) - 2 * _best(vectors, codes)[1], 0)
        total = jnp.cumsum(error)
        place = jnp.searchsorted(total, total[-1] * jax.random.uniform(key, (len(codes),)))
        fresh, others = vectors[jnp.minimum(place, len(vectors) - 1)], unused
    return fresh, unused & is_distinct(fresh, codes, others)


def sampled(vectors: Float[Array, "N Z"], k: int, key: Key[Array, ""]) -> Float[Array, "{k} Z"]:
    """Sample k of these vectors with replacement."""
    return vectors[jax.random.randint(key, (k,), 0, len(vectors))]


def is_distinct(
    fresh: Float[Array, "N Z"], codes: Float[Array, "K Z"], is_chosen: Bool[Array, " N"]
) -> Bool[Array, " N"]:
    """Whether each vector differs from all codes and from all chosen vectors before it, up to rounding.

    Blank image regions give equal vectors; between equal codes, rounding would decide which one is nearest.
    """
    n, k = len(fresh), len(codes)
    both = jnp.concatenate([codes, fresh])
    before = jnp.arange(k + n)[:, None] < k + jnp.arange(n)[None]
    before = before & jnp.concatenate([jnp.ones(k, bool), is_chosen])[:, None]
    square = per_example((fresh - both[_best(fresh, both, before)[0]]) ** 2)
    return square > DUPLICATE * jnp.mean(per_example(fresh**2))
