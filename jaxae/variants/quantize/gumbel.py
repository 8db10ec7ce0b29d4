"""The Gumbel-softmax relaxation of a categorical code (Jang, Gu & Poole 2017; Maddison, Mnih & Teh 2017)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Weight
from jaxae.core.divergences import per_example
from jaxae.variants.quantize.base import Quantized
from jaxae.variants.quantize.codebook import WithCodebook


class Gumbel(WithCodebook):
    """One of K learned codes: a sample of q(k|z) = softmax(z W + b) in training, otherwise the most probable one.

    In training the code is sum_k y_k e_k with y = softmax((log q + g) / temperature) for Gumbel noise g (Jang, Gu &
    Poole 2017, equation 2); if `hard`, y is rounded to one-hot, with the gradient of y (their section 2.2).
    Loss: kl_weight KL(q(k|z) || 1 / K), in nats, summed over positions. Terms: `kl`, the same without its weight;
    `quantization` is |z - e|^2 and has no gradient. The codes are the parameter group `codebook`, W and b are `logits`.
    """

    temperature: Weight = 1.0  # a number, or a schedule
    kl_weight: float = 1.0
    hard: bool = True

    def setup(self) -> None:
        self.weights = self.param("codebook", nn.initializers.normal(1.0), (self.codes, self.latent))
        self.logits = nn.Dense(self.codes)

    @property
    def book(self) -> Float[Array, "K Z"]:
        """The codes."""
        return self.weights

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:
        """A sample in training, else the most probable code."""
        log_q = jax.nn.log_softmax(self.logits(z))
        if batch is not None and key is not None and batch.training:
            noise = jax.vmap(lambda k: jax.random.gumbel(k, log_q.shape[1:]))(batch.keys(key))
            log_y = (log_q + noise) / batch.scheduled(self.temperature)
            indices = jnp.argmax(log_y, axis=-1)
            y = jax.nn.softmax(log_y)
            if self.hard:
                y = jax.nn.one_hot(indices, self.codes) + (y - jax.lax.stop_gradient(y))
            codes = jnp.matmul(y, self.book, precision="highest")
        else:
            indices = jnp.argmax(log_q, axis=-1)
            codes = self.book[indices]
        kl = per_example(jnp.exp(log_q) * (log_q + jnp.log(self.codes)))
        quantization = per_example((z - jax.lax.stop_gradient(self.book)[indices]) ** 2)
        terms = {"quantization": jax.lax.stop_gradient(quantization), "kl": kl, "loss": self.kl_weight * kl}
        return Quantized(codes, indices, terms)
