"""The vector-quantized variational autoencoder (van den Oord, Vinyals & Kavukcuoglu 2017)."""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.types import Extra, Info, Variables
from jaxae.likelihoods import Bernoulli, Likelihood, log_likelihood
from jaxae.variants.codebook import Update, nearest


class Quantized(NamedTuple):
    """Vectors at the positions P, usually h w, before and after quantization."""

    before: Float[Array, "B *P Z"]  # from the encoder
    after: Float[Array, "B *P Z"]  # the nearest codes
    rows: Int[Array, "B *P"]  # indices of these codes in the codebook


class VQVAE(nn.Module):
    """An autoencoder that replaces each encoder vector by the nearest of K codes, the only input of the decoder.

    The codebook is the collection `codebook`; if `learned`, the parameter group `codebook`; if also `tracked`, the sum
    of both.
    """

    encoder: nn.Module  # [B, *D] -> [B, *P, Z]
    decoder: nn.Module  # [B, *P, Z] -> [B, *D]: the parameters of the likelihood
    codes: int  # K
    latent: int  # Z
    learned: bool = False  # by gradient, not by moving averages
    tracked: bool = True  # track the usage of learned codes, as re-initialisation needs
    likelihood: Likelihood = Bernoulli()

    def setup(self) -> None:
        shape = (self.codes, self.latent)
        init = nn.initializers.normal(0.1)
        if self.learned:
            self.book = self.param("codebook", init, shape)
        if self.tracked or not self.learned:
            zero = jnp.zeros(shape)
            start = self.variable("codebook", "codes", lambda: zero if self.learned else init(self.make_rng(), shape))
            self.book = self.book + start.value if self.learned else start.value
            self.variable("codebook", "use", jnp.zeros, self.codes)

    def __call__(self, x: Float[Array, "B *D"]) -> tuple[Quantized, Float[Array, "B *D"]]:
        """The vectors and their codes, and the decoder output."""
        vectors = self.quantize(x)
        return vectors, self.decoder(straight_through(vectors.before, vectors.after))

    def quantize(self, x: Float[Array, "B *D"]) -> Quantized:
        """The encoder's vectors and their codes."""
        z = self.encoder(x)
        rows = nearest(z, self.book)
        return Quantized(z, self.book[rows], rows)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B *P Z"]:
        """The codes, as vectors."""
        return self.quantize(x).after

    def index(self, z: Float[Array, "B *P Z"]) -> Int[Array, "B *P"]:
        """Indices of these codes in the codebook."""
        return nearest(z, self.book)

    def decode(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *D"]:
        """The mean of p(x|z), from the codes nearest to these vectors."""
        return self.likelihood.mean(self.decoder(self.book[nearest(z, self.book)]))


def strided(
    shape: tuple[int, ...], filters: tuple[int, ...], latent: int, bias: float, precision: str = "float32"
) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of convolutions of stride 2 for images of this shape, with `latent` channels per position.

    filters: filters of the encoder; the decoder mirrors them. bias: initial bias of the last layer, that of the mean.
    """
    # Leaky, since a plain ReLU has no gradient while all codes are 0, as after rounding at initialisation. With an
    # initial output other than the data mean, all codes first move towards darker images, and some stay there.
    common: dict[str, Any] = {"activation": partial(nn.leaky_relu, negative_slope=0.2), "precision": precision}
    encoder = nets.Conv(filters, strides=(2,), **common)
    decoder = nets.Deconv(shape, filters, strides=(2,), bias=bias, **common)
    into, out = (nets.MLP((), (width,), precision=precision) for width in (latent, filters[-1]))
    return nn.Sequential((encoder, into)), nn.Sequential((out, decoder))


def bias(likelihood: Likelihood, info: Info) -> float:
    """The decoder output whose mean is the mean training value."""
    return float(likelihood.initial(info.initial_mean().mean(keepdims=True)).ravel()[0])


def straight_through(z: Float[Array, "*D"], q: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """The straight-through estimator: the value of q, bit for bit, with the gradient passed to z.

    Bengio, Leonard & Courville 2013; van den Oord et al. 2017, section 3.2.
    """
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def loss(model: VQVAE, commitment: float = 0.25, update: Update | None = None) -> Loss:
    """-log p(x|z) + |sg(z) - e|^2 + commitment |z - sg(e)|^2 (equation 3 of the paper), in nats per example.

    Every term is a sum: over the pixels of an image, and over the positions and dimensions of a code (the paper
    takes the mean over positions). Only learned codes have the second term. The KL term, KL(q(z|x) || p(z)) = h w log
    K, is omitted: it is constant for a uniform prior.
    update: updates the state of the codebook in training (see `track`).

    Terms: `loss`; `reconstruction`, -log p(x|z); `quantization`, |z - e|^2; the likelihood's `errors`; those of the
    update.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        found: Any = model.apply(variables, batch.x)
        (z, e, rows), outputs = found
        fixed, likelihood = jax.lax.stop_gradient, model.likelihood
        terms = {
            "reconstruction": -log_likelihood(likelihood, outputs, batch.x, batch.observed),
            "quantization": per_example((fixed(z) - e) ** 2),
            **likelihood.errors(outputs, batch.x, batch.observed),
        }
        terms["loss"] = terms["reconstruction"] + commitment * per_example((z - fixed(e)) ** 2)
        if model.learned:
            terms["loss"] = terms["loss"] + terms["quantization"]
        if update is None or not batch.training:
            return terms, {}
        more, updates = update(variables, fixed(z), rows, batch, key)
        return {**terms, **more}, updates

    return objective
