"""SimVQ (Zhu et al. 2024): a linear map of fixed random vectors is the codebook."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch
from jaxae.core.divergences import per_example
from jaxae.variants.quantize.base import Estimator, Quantized, straight_through
from jaxae.variants.quantize.codebook import WithCodebook, nearest


class SimVQ(WithCodebook):
    """The nearest of K codes c W: c are fixed Gaussian vectors, and only W is learned, so that all codes move.

    Loss: |sg(z) - e|^2 + commitment |z - sg(e)|^2 (Zhu, Li, Xin, Xia & Xu 2024, section 4). The vectors c are the
    collection `codebook`, W is the parameter group `codebook`.
    """

    commitment: float = 0.25
    estimator: Estimator = straight_through

    def setup(self) -> None:
        shape = (self.codes, self.latent)
        init = nn.initializers.normal(self.latent**-0.5)
        self.fixed = self.variable("codebook", "codes", lambda: init(self.make_rng(), shape))
        self.weights = self.param("codebook", nn.initializers.orthogonal(), (self.latent, self.latent))

    @property
    def book(self) -> Float[Array, "K Z"]:
        """The codes."""
        return jnp.matmul(self.fixed.value, self.weights, precision="highest")

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:  # noqa: ARG002
        """The nearest codes."""
        fixed, book = jax.lax.stop_gradient, self.book
        indices = nearest(fixed(z), fixed(book))
        e = book[indices]
        terms = {"quantization": per_example((fixed(z) - e) ** 2)}
        terms["loss"] = terms["quantization"] + self.commitment * per_example((z - fixed(e)) ** 2)
        return Quantized(self.estimator(z, e), indices, terms)
