"""Vector quantization with a learned codebook (van den Oord, Vinyals & Kavukcuoglu 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Terms
from jaxae.core.divergences import per_example
from jaxae.core.seeds import in_any_seed
from jaxae.variants.quantize.base import Estimator, Quantized, straight_through
from jaxae.variants.quantize.codebook import (
    Sampling,
    WithCodebook,
    kmeans,
    moments,
    nearest,
    replacements,
    usage_terms,
)
from jaxae.variants.quantize.rotation import unit


class VQ(WithCodebook):
    """The nearest of K codes, learned by moving averages (van den Oord et al. 2017, equations 6 to 8) or by gradient.

    Moving averages over global batches, with n_k vectors z of the batch that are nearest to code k:

        N_k <- decay N_k + (1 - decay) n_k,  m_k <- decay m_k + (1 - decay) sum z,  e_k = m_k / N_k,

    computed as increments of e_k, so that a code without vectors does not move, however small its N_k. N is relative
    to uniform usage: a code with 1 / K of all vectors has N_k = 1. It starts from 0, so that the first vectors move a
    code to their mean.

    Loss: commitment |z - sg(e)|^2, and |sg(z) - e|^2 for learned codes (van den Oord et al. 2017, equation 3). Terms in
    training, of the global batch, if the usage is tracked: `perplexity`, `usage` (see `usage_terms`).
    The codebook is the collection `codebook`; if `learned`, the parameter group `codebook`; if also tracked, the sum of
    both. ValueError for a decay that is not below 1, and for a reinit_below that is not below reinit_usage.
    """

    learned: bool = False  # by gradient, not by moving averages
    commitment: float = 0.25
    decay: float = 0.99
    reinit_below: float = 0.0  # codes with N_k below this are re-initialised from vectors of the batch (0: never)
    reinit_usage: float = 1.0  # N_k of re-initialised codes
    sampling: Sampling = "uniform"  # of the vectors that replace them, see `replacements`
    kmeans: int = 0  # iterations of k-means on the first batch (0: random codes)
    cosine: bool = False  # unit vectors and codes (Yu et al. 2021, section 3.2)
    estimator: Estimator = straight_through

    def __post_init__(self) -> None:
        if self.decay >= 1:
            raise ValueError(f"decay={self.decay} must be below 1")
        if self.reinit_below >= self.reinit_usage:
            raise ValueError(
                f"reinit_below={self.reinit_below} must be below {self.reinit_usage:g}, or every code is "
                "re-initialised in every step"
            )
        super().__post_init__()

    def setup(self) -> None:
        shape = (self.codes, self.latent)
        init = nn.initializers.normal(0.1)
        if self.learned:
            self.weights = self.param("codebook", init, shape)
        if self.tracked:
            zero = jnp.zeros(shape)
            self.state = self.variable(
                "codebook", "codes", lambda: zero if self.learned else init(self.make_rng(), shape)
            )
            self.use = self.variable("codebook", "use", jnp.zeros, self.codes)
        if self.kmeans:
            self.started = self.variable("codebook", "started", jnp.zeros, (), bool)

    @property
    def tracked(self) -> bool:
        """Whether the collection `codebook` exists."""
        return not self.learned or self.reinit_below > 0 or self.kmeans > 0

    @property
    def book(self) -> Float[Array, "K Z"]:
        """The codes."""
        if not self.tracked:
            return unit(self.weights) if self.cosine else self.weights
        return self._book(self.state.value)

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The vectors, with `cosine` scaled to norm 1."""
        return unit(z) if self.cosine else z

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:
        """The nearest codes."""
        fixed = jax.lax.stop_gradient
        train = (batch, key) if batch is not None and key is not None and batch.training and self.tracked else None
        if train and self.kmeans:
            self._start(fixed(z), *train)
        book = self.book
        indices = nearest(fixed(z), fixed(book))
        e = book[indices]
        terms = {"quantization": per_example((fixed(z) - e) ** 2)}
        terms["loss"] = self.commitment * per_example((z - fixed(e)) ** 2)
        if self.learned:
            terms["loss"] = terms["loss"] + terms["quantization"]
        if train:
            terms |= self._track(fixed(z), indices, *train)
        return Quantized(self.estimator(z, e), indices, terms)

    def _book(self, state: Float[Array, "K Z"]) -> Float[Array, "K Z"]:
        """The codes with this value of the collection."""
        book = self.weights + state if self.learned else state
        return unit(book) if self.cosine else book

    def _offset(self, codes: Float[Array, "K Z"]) -> Float[Array, "K Z"]:
        """The value of the collection for which these are the codes."""
        return codes - jax.lax.stop_gradient(self.weights) if self.learned else codes

    def _start(self, z: Float[Array, "B *P Z"], batch: Batch, key: Key[Array, ""]) -> None:
        """Write the centres of k-means on the first batch."""
        own = jax.random.fold_in(key, 1)

        def first() -> tuple[Float[Array, "K Z"], Float[Array, " K"]]:
            vectors = batch.gather(z.reshape(len(z), -1, self.latent)).reshape(-1, self.latent)
            centres, shares = kmeans(vectors, self.codes, own, self.kmeans)
            return self._offset(centres), self.codes * shares

        state, use, started = self.state.value, self.use.value, self.started.value
        found = jax.lax.cond(in_any_seed(~started), first, lambda: (state, use))
        self.state.value, self.use.value = (
            jnp.where(started, old, new) for old, new in zip((state, use), found, strict=True)
        )
        self.started.value = jnp.ones_like(started)

    def _track(
        self, z: Float[Array, "B *P Z"], indices: Int[Array, "B *P"], batch: Batch, key: Key[Array, ""]
    ) -> Terms:
        """Write the new usage and codes."""
        frequencies, sums = moments(z, indices, self.codes, batch)
        n = self.codes * frequencies
        codes, use = self.state.value, self.decay * self.use.value + (1 - self.decay) * n
        if not self.learned:
            off = self.codes * sums - n[:, None] * codes
            codes = codes + (1 - self.decay) * off / jnp.maximum(use, jnp.finfo(use.dtype).tiny)[:, None]
        if self.reinit_below:
            codes, use = self._reinitialised(z, codes, use, batch, key)
        self.state.value, self.use.value = codes, use
        return usage_terms(frequencies, batch)

    def _reinitialised(
        self,
        z: Float[Array, "B *P Z"],
        codes: Float[Array, "K Z"],
        use: Float[Array, " K"],
        batch: Batch,
        key: Key[Array, ""],
    ) -> tuple[Float[Array, "K Z"], Float[Array, " K"]]:
        """Codes and their usage, with unused ones re-initialised, unless another code equals the new one."""
        unused = use < self.reinit_below

        def change() -> tuple[Float[Array, "K Z"], Float[Array, " K"]]:
            fresh, reinit = replacements(z, self._book(codes), unused, self.sampling, batch, key)
            return jnp.where(reinit[:, None], self._offset(fresh), codes), jnp.where(reinit, self.reinit_usage, use)

        return jax.lax.cond(in_any_seed(unused.any()), change, lambda: (codes, use))
