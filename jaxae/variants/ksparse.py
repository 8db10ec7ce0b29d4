"""The k-sparse autoencoder (Makhzani & Frey 2013): only the k largest latent activations stay nonzero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets import Activation, Keys, linear
from jaxae.variants.tied import Tied


def largest(z: Float[Array, "B Z"], k: int) -> Float[Array, "B Z"]:
    """Set all but the k largest entries of each row to 0; ties go to the first.

    The gradient passes through these k entries.
    """
    _, places = jax.lax.top_k(z, k)
    mask = jnp.zeros(z.shape, bool).at[jnp.arange(len(z))[:, None], places].set(True)
    return jnp.where(mask, z, 0)


class KSparse(Tied):
    """z = largest(x W + b), logits = z W' + c: `active` nonzero dimensions in training, alpha times as many afterwards.

    Makhzani & Frey 2013, section 2.1.
    """

    activation: Activation = linear
    output: Activation = linear
    active: int = 25
    alpha: float = 1.0

    def __call__(
        self,
        x: Float[Array, "B *D"],
        keys: Keys | None = None,
        axis: str | None = None,  # noqa: ARG002
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes and reconstructions. keys: in training."""
        z = self.encode(x) if keys is None else largest(super().encode(x), self.active)
        return z, self.logits(z)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B Z"]:
        """Codes with the number of nonzero dimensions after training."""
        return largest(super().encode(x), self.evaluated)

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """Pixels in [0, 1]."""
        return jnp.clip(super().decode(z), 0, 1)

    @property
    def evaluated(self) -> int:
        """Number of nonzero latent dimensions after training."""
        return int(self.alpha * self.active + 0.5)
