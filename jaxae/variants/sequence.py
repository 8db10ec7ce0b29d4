"""Sequence to sequence (Sutskever, Vinyals & Le 2014; as an autoencoder: Srivastava, Mansimov & Salakhutdinov 2015)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets import LSTM, MLP, Activation, Keys


class SequenceAutoencoder(nn.Module):
    """An LSTM encodes the rows of x into its last output, the code; a second LSTM decodes the code, repeated T times.

    mask: 1 on the steps of a sequence, 0 on padding, which affects neither code nor loss.
    """

    shape: tuple[int, ...]  # of an example: [T, *D]
    latent: int
    hidden: int  # width of the decoder
    output: Activation = nn.sigmoid
    precision: str = "float32"  # of the output layer; the LSTMs use float32

    def setup(self) -> None:
        self.encoder = LSTM(self.latent)
        self.decoder = LSTM(self.hidden)
        self.rows = MLP((), self.shape[1:], precision=self.precision)

    def __call__(
        self,
        x: Float[Array, "B T *D"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
        mask: Float[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B Z"], Float[Array, "B T *D"]]:
        """Codes and logits."""
        z = self.encode(x, mask)
        return z, self.logits(z)

    def encode(self, x: Float[Array, "B T *D"], mask: Float[Array, "B T"] | None = None) -> Float[Array, "B Z"]:
        """Codes."""
        return self.encoder(x.reshape(*x.shape[:2], -1), mask)[1]

    def logits(self, z: Float[Array, "B Z"]) -> Float[Array, "B T *D"]:
        """All T rows, before `output`."""
        repeated = jnp.broadcast_to(z[:, None], (len(z), self.shape[0], z.shape[1]))
        return self.rows(self.decoder(repeated)[0])

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B T *D"]:
        """Reconstructions."""
        return self.output(self.logits(z))
