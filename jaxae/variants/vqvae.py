"""The vector-quantized variational autoencoder (van den Oord, Vinyals & Kavukcuoglu 2017), with any quantizer."""

from functools import partial
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.types import Extra, Info, Variables
from jaxae.likelihoods import Bernoulli, Likelihood, log_likelihood
from jaxae.variants.quantize import Quantized, Quantizer


class VQVAE(nn.Module):
    """An autoencoder that replaces each encoder vector by a code from a finite set, the only input of the decoder.

    Parameters and collections of the quantizer are those of the model: a codebook is the collection, or the parameter
    group, `codebook`.
    """

    encoder: nn.Module  # [B, *D] -> [B, *P, Z]
    decoder: nn.Module  # [B, *P, Z] -> [B, *D]: the parameters of the likelihood
    quantizer: Quantizer
    likelihood: Likelihood = Bernoulli()

    def setup(self) -> None:
        nn.share_scope(self, self.quantizer)

    def __call__(
        self, x: Float[Array, "B *D"], batch: Batch | None = None, key: Key[Array, ""] | None = None
    ) -> tuple[Quantized, Float[Array, "B *D"]]:
        """The codes, and the decoder output. batch, key: see `Quantizer`."""
        found = self.quantizer(self.encoder(x), batch, key)
        return found, self.decoder(found.codes)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B *P Z"]:
        """The codes, as vectors."""
        return self.quantizer(self.encoder(x)).codes

    def indices(self, x: Float[Array, "B *D"]) -> Int[Array, "B *P"] | Int[Array, "B *P Q"]:
        """The codes, as indices from 0 to `codes` - 1."""
        return self.quantizer(self.encoder(x)).indices

    def embed(self, indices: Int[Array, "B *I"]) -> Float[Array, "B *P Z"]:
        """The codes with these indices, as vectors."""
        return self.quantizer.embed(indices)

    def decode(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *D"]:
        """The mean of p(x|z), decoded from the codes nearest to these vectors (see `Quantizer.nearest`)."""
        return self.likelihood.mean(self.decoder(self.quantizer.nearest(z)))

    @property
    def codes(self) -> int:
        """The number of codes."""
        return self.quantizer.size


def strided(
    shape: tuple[int, ...], filters: tuple[int, ...], latent: int, bias: float, precision: str = "float32"
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of convolutions of stride 2 for images of this shape, with `latent` channels per position.

    filters: filters of the encoder; the decoder mirrors them. bias: initial bias of the last layer (see `bias`).
    """
    # Leaky, since a plain ReLU has no gradient while all codes are 0, as they are after rounding at initialisation. If
    # the initial output is not the data mean, all codes first move towards darker images, and some stay there.
    common: dict[str, Any] = {"activation": partial(nn.leaky_relu, negative_slope=0.2), "precision": precision}
    encoder = nets.Conv(filters, strides=(2,), **common)
    decoder = nets.Deconv(shape, filters, strides=(2,), bias=bias, **common)
    into, out = (nets.MLP((), (width,), precision=precision) for width in (latent, filters[-1]))
    return nn.Sequential((encoder, into)), nn.Sequential((out, decoder))


def bias(likelihood: Likelihood, info: Info) -> float:
    """The decoder output whose mean is the mean training value."""
    return float(likelihood.initial(info.initial_mean().mean(keepdims=True)).ravel()[0])


def loss(model: VQVAE) -> Loss:
    """-log p(x|z) plus the loss of the quantizer (van den Oord et al. 2017, equation 3), in nats per example.

    Every term is a sum: over the pixels of an image, and over the positions and dimensions of a code (the paper
    takes the mean over positions). The KL term, KL(q(z|x) || p(z)) = h w log K, is omitted: it is constant for a
    uniform prior.

    Terms: `loss`; `reconstruction`, -log p(x|z); `quantization`, |z - e|^2; the likelihood's `errors`; those of the
    quantizer.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        collections = [name for name in variables if name != "params"]
        found: Any = model.apply(variables, batch.x, batch, key, mutable=collections)
        (quantized, outputs), updates = found
        terms = {
            **quantized.terms,
            "reconstruction": -log_likelihood(model.likelihood, outputs, batch.x, batch.observed),
            **model.likelihood.errors(outputs, batch.x, batch.observed),
        }
        terms["loss"] = terms["reconstruction"] + quantized.terms["loss"]
        return terms, dict(updates) if batch.training else {}

    return objective
