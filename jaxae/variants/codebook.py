"""The codebook of a vector-quantized autoencoder: nearest codes, and moving averages of code usage."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxae.core.batch import Batch, Terms
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Variables

# Update of the codebook without gradients: (variables, z, rows, batch, key) -> (terms, updates)
Update: TypeAlias = Callable[
    [Variables, Float[Array, "B *P Z"], Int[Array, "B *P"], Batch, Key[Array, ""]], tuple[Terms, Extra]
]


DUPLICATE = 1e-6  # squared distance of vectors that are equal up to rounding, relative to their mean squared norm


def nearest(z: Float[Array, "*P Z"], codes: Float[Array, "K Z"]) -> Int[Array, "*P"]:
    """argmin_k |z - e_k| (van den Oord et al. 2017, equation 1); ties go to the first.

    Computes |z - e|^2 - |z|^2 by a matrix product; |z|^2 is the same for all codes.
    """
    squares = 0.5 * per_example(codes**2)
    products = jnp.matmul(z, codes.T, precision="highest")
    return jnp.argmin(squares.reshape(*[1] * (z.ndim - 1), -1) - products, axis=-1)


def track(decay: float = 0.99, reinit_below: float = 0.0) -> Update:
    """EMA over global batches of code usage, and of codes not learned by gradient (van den Oord et al. 2017, A.1).

    With n_k vectors z of the batch that are nearest to code k (equations 6 to 8):

        N_k <- decay N_k + (1 - decay) n_k,  m_k <- decay m_k + (1 - decay) sum z,  e_k = m_k / N_k,

    computed as increments of e_k, so that a code without vectors does not move, however small its N_k. N is relative
    to uniform usage: a code with 1 / K of all vectors has N_k = 1. It starts from 0, so that the first vectors move a
    code to their mean.
    reinit_below: codes with N_k below this are re-initialised from vectors of the batch, with N_k = 1, unless another
    code equals that vector (0: never).

    Terms, of the global batch: `perplexity`, exp of the entropy of code usage, from 1 to K; `usage`, the fraction of
    codes in use. ValueError for a decay that is not below 1.
    """
    if decay >= 1:
        raise ValueError(f"decay={decay} must be below 1")

    def update(
        variables: Variables,
        z: Float[Array, "B *P Z"],
        rows: Int[Array, "B *P"],
        batch: Batch,
        key: Key[Array, ""],
    ) -> tuple[Terms, Extra]:
        codes, use = variables["codebook"]["codes"], variables["codebook"]["use"]
        learned = variables["params"].get("codebook")
        vectors = z.reshape(len(z), -1, z.shape[-1])
        chosen = jax.nn.one_hot(rows.reshape(vectors.shape[:2]), len(codes))
        frequencies = batch.mean(chosen.mean(1))
        terms = {
            "perplexity": batch.repeat(jnp.exp(jax.scipy.special.entr(frequencies).sum())),
            "usage": batch.repeat(jnp.mean(frequencies > 0)),
        }
        n = len(codes) * frequencies
        use = decay * use + (1 - decay) * n
        if learned is None:
            sums = jnp.einsum("bpk,bpz->bkz", chosen, vectors, precision="highest") / vectors.shape[1]
            off = len(codes) * batch.mean(sums) - n[:, None] * codes
            codes = codes + (1 - decay) * off / jnp.maximum(use, jnp.finfo(use.dtype).tiny)[:, None]
        if reinit_below:
            base = 0.0 if learned is None else learned
            fresh = resampled(vectors, len(codes), batch, key)
            reinit = (use < reinit_below) & is_distinct(fresh, codes + base)
            codes, use = jnp.where(reinit[:, None], fresh - base, codes), jnp.where(reinit, 1.0, use)
        return terms, {"codebook": {"codes": codes, "use": use}}

    return update


def resampled(vectors: Float[Array, "B P Z"], k: int, batch: Batch, key: Key[Array, ""]) -> Float[Array, "{k} Z"]:
    """Sample k vectors of the global batch with replacement, the same on every device."""
    all_vectors = batch.gather(vectors).reshape(-1, vectors.shape[2])
    return all_vectors[jax.random.randint(key, (k,), 0, len(all_vectors))]


def is_distinct(fresh: Float[Array, "N Z"], codes: Float[Array, "K Z"]) -> Bool[Array, " N"]:
    """Whether each vector differs from all codes and from all vectors before it, up to rounding.

    Blank image regions give equal vectors; between equal codes, rounding would decide which one is nearest.
    """
    n, k = len(fresh), len(codes)
    square = jnp.sum((fresh[:, None] - jnp.concatenate([codes, fresh])[None]) ** 2, axis=2)
    before = jnp.arange(k + n)[None] < k + jnp.arange(n)[:, None]
    return jnp.min(jnp.where(before, square, jnp.inf), axis=1) > DUPLICATE * jnp.mean(jnp.sum(fresh**2, axis=1))
