"""A neural audio codec: a quantized autoencoder of frames with a spectral loss (Zeghidour et al. 2021, SoundStream)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import mean_over_observed, per_example
from jaxae.core.types import Extra, Variables
from jaxae.variants.spectra import log_spectral_distance, signal_to_distortion, spectral_distances
from jaxae.variants.vqvae import VQVAE


class Codec(VQVAE):
    """Codes [B, t, Z] of the frames of signals [B, T, *D] of any length T.

    Signals are padded with 0, so masks have no effect.
    """

    def encode(self, x: Float[Array, "B T *D"], mask: Float[Array, "B T"] | None = None) -> Float[Array, "B t Z"]:  # noqa: ARG002
        """The codes, as vectors."""
        return super().encode(x)

    def indices(
        self,
        x: Float[Array, "B T *D"],
        mask: Float[Array, "B T"] | None = None,  # noqa: ARG002
    ) -> Int[Array, "B t"] | Int[Array, "B t Q"]:
        """The codes, as indices."""
        return super().indices(x)


def loss(
    model: Codec,
    windows: Sequence[int],
    *,
    waveform: float = 1.0,
    spectrum: float = 1.0,
    segment: int = 0,
) -> Loss:
    """waveform |x - y| + spectrum times the multi-resolution STFT loss + the loss of the quantizer, as means.

    The first term is the mean over samples, the second the sum of both `spectral_distances` for these windows, and the
    third the loss of the quantizer divided by the number of frames and of latent dimensions. Both signals are 0 after
    their end. segment: length, in samples, of the random segment of each signal that is used for training (0, or at
    least T: the whole signal).

    Terms: `loss`; `mae`, |x - y|, and `mse`, in model units; `convergence`, `log_spectrum`, see `spectral_distances`;
    `lsd`, log-spectral distance in dB, of the middle window; `si_sdr`, in dB; those of the quantizer.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        place, noise = jax.random.split(key)
        x, mask = batch.x, batch.observed
        if batch.training and 0 < segment < x.shape[1]:
            x, mask = segments(batch, place, segment)
        collections = [name for name in variables if name != "params"]
        found: Any = model.apply(variables, x, batch, noise, mutable=collections)
        (quantized, y), updates = found
        y = y[:, : x.shape[1]]
        y = y if mask is None else y * mask.reshape(*mask.shape, *[1] * (y.ndim - 2))
        a, b = (signal.reshape(*x.shape[:2], -1) for signal in (x, y))
        convergence, logarithm = spectral_distances(a, b, windows, mask)
        terms = {
            **quantized.terms,
            "mae": mean_over_observed(jnp.abs(x - y), mask),
            "mse": mean_over_observed((x - y) ** 2, mask),
            "convergence": convergence,
            "log_spectrum": logarithm,
            "lsd": log_spectral_distance(a, b, windows[len(windows) // 2], mask),
            "si_sdr": signal_to_distortion(a, b),
        }
        mean = quantized.terms["loss"] / quantized.codes[0].size
        terms["loss"] = waveform * terms["mae"] + spectrum * (convergence + logarithm) + mean
        return terms, dict(updates) if batch.training else {}

    return objective


def segments(
    batch: Batch, key: Key[Array, ""], length: int
) -> tuple[Float[Array, "B {length} *D"], Float[Array, "B {length}"] | None]:
    """A segment of each signal, with a uniformly random start, and its mask.

    A segment of a shorter signal is the signal itself, padded.
    """
    x, mask = batch.x, batch.observed
    ends = jnp.full(len(x), x.shape[1]) if mask is None else per_example(mask).astype(jnp.int32)

    def start(key: Key[Array, ""], end: Int[Array, ""]) -> Int[Array, ""]:
        return jax.random.randint(key, (), 0, jnp.maximum(end - length, 0) + 1)

    def cut(values: Float[Array, "T *D"], first: Int[Array, ""]) -> Float[Array, "_ *D"]:
        return jax.lax.dynamic_slice_in_dim(values, first, length)

    starts = jax.vmap(start)(batch.keys(key), ends)
    found: Any = jax.vmap(cut)(x, starts)
    return found, None if mask is None else jax.vmap(cut)(mask, starts)
