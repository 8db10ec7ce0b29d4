"""The stacked autoencoder, trained greedily (Hinton, Osindero & Teh 2006; Bengio et al. 2007, section 3).

Each layer is pretrained as an autoencoder of the codes of the previous layer; then all layers are fine-tuned.
"""

from typing import Any, cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.nets import MLP, Activation, Keys


class Stacked(nn.Module):
    """Dense layers of these widths, mirrored in the decoder. Parameter groups: encoder_0, decoder_0, encoder_1, ..."""

    shape: tuple[int, ...]  # of an example
    widths: tuple[int, ...]  # the last one is the size of the code
    activation: Activation = nn.relu
    output: Activation = nn.sigmoid
    precision: str = "float32"

    def setup(self) -> None:
        outputs = (self.shape, *((width,) for width in self.widths[:-1]))
        self.encoder = [
            MLP((), (width,), axes=len(before), precision=self.precision)
            for width, before in zip(self.widths, outputs, strict=True)
        ]
        self.decoder = [MLP((), output, precision=self.precision) for output in outputs]

    def __call__(
        self,
        x: Float[Array, "B *D"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes and logits."""
        z = self.encode(x)
        return z, self.logits(z)

    def up(self, x: jax.Array, layers: int) -> jax.Array:
        """Output of the first `layers` encoder layers."""
        for layer in self.encoder[:layers]:
            x = self.activation(layer(x))
        return x

    def layer(self, x: Float[Array, "B *D"], number: int) -> tuple[jax.Array, jax.Array]:
        """Input of a layer's autoencoder, and its reconstruction before the activation."""
        below = self.up(x, number)
        return below, self.decoder[number](self.activation(self.encoder[number](below)))

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B Z"]:
        """Codes."""
        return self.up(x, len(self.widths))

    def logits(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """Decoder output before the activation `output`."""
        for layer in self.decoder[:0:-1]:
            z = self.activation(layer(z))
        return self.decoder[0](z)

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """Reconstructions."""
        return self.output(self.logits(z))


def greedy(model: Stacked, number: int) -> Loss:
    """Reconstruction error of one layer's autoencoder. Use with descend(..., wrt=groups(number)).

    The error of the first layer is the cross-entropy in nats per pixel, or the squared error of real-valued data; that
    of the others is the squared error, mean over the dimensions of the previous layer's codes.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:  # noqa: ARG001
        below, above = cast("Any", model.apply(variables, batch.x, number, method="layer"))
        if number == 0 and model.output is nn.sigmoid:
            error = cross_entropy(above, below)
        else:
            error = ((model.activation if number else model.output)(above) - below) ** 2
        return {"loss": per_example(error) / below[0].size}, {}

    return objective


def groups(number: int) -> tuple[str, str]:
    """The parameter groups of a layer's autoencoder."""
    return f"encoder_{number}", f"decoder_{number}"
