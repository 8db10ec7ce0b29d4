"""The short-time Fourier transform, and spectral distances between signals."""

from collections.abc import Sequence
from math import log

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae.core.divergences import per_example

FLOOR = 1e-6  # added to powers: 60 dB below white noise of variance 1; keeps the gradient of silence finite


def power(x: Float[Array, "*lead T"], window: int) -> Float[Array, "*lead F K"]:
    """Power of K = window / 2 + 1 frequencies in frames of `window` samples, one every window / 4 samples.

    |STFT|^2 with a Hann window, divided by the sum of its squares, so that white noise of variance 1 has a mean power
    of 1. Frames are centred at the samples 0, window / 4, ... below T; the signal is 0 outside. ValueError unless
    window is a multiple of 4.
    """
    if window < 4 or window % 4:
        raise ValueError(f"window={window} must be a multiple of 4")
    hop, steps = window // 4, x.shape[-1]
    frames = -(-steps // hop)
    padding = [(0, 0)] * (x.ndim - 1) + [(window // 2, (frames + 1) * hop - steps)]
    parts = jnp.pad(x, padding).reshape(*x.shape[:-1], frames + 3, hop)
    cut = jnp.concatenate([parts[..., i : i + frames, :] for i in range(4)], axis=-1)  # a gather has a slow gradient
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    weights = jnp.asarray(hann / np.sqrt(np.sum(hann**2)), jnp.float32)
    found = jnp.fft.rfft(cut * weights.reshape(*[1] * x.ndim, -1))
    return found.real**2 + found.imag**2


def spectral_distances(
    x: Float[Array, "B T C"],
    y: Float[Array, "B T C"],
    windows: Sequence[int],
    mask: Float[Array, "B T"] | None = None,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The two terms of the multi-resolution STFT loss (Yamamoto, Song & Kim 2020, equations 4 to 6).

    With magnitudes X and Y, the root of `power` plus `FLOOR`: spectral convergence |X - Y| / |X| in the Frobenius norm,
    and the mean |log X - log Y|, both averaged over windows. mask: 1 within a signal; frames centred after its end are
    left out. Both signals must be 0 there.
    """
    convergence, logarithm = [], []
    for window in windows:
        p, q, inside = _powers(x, y, window, mask)
        a, b = jnp.sqrt(p), jnp.sqrt(q)
        square = per_example(inside * (a - b) ** 2) + FLOOR**2  # the root of 0 has an infinite gradient
        convergence.append(jnp.sqrt(square / per_example(inside * p)))
        change = jnp.abs(jnp.log(p) - jnp.log(q)) / 2
        logarithm.append(per_example(inside * change) / (per_example(inside) * p[0].size / inside[0].size))
    return sum(convergence[1:], convergence[0]) / len(windows), sum(logarithm[1:], logarithm[0]) / len(windows)


def log_spectral_distance(
    x: Float[Array, "B T C"], y: Float[Array, "B T C"], window: int, mask: Float[Array, "B T"] | None = None
) -> Float[Array, " B"]:
    """Root mean square over frequencies of the difference of powers in dB, mean over frames (Gray & Markel 1976).

    `FLOOR` is added to all powers, so that the distance of near-silent parts is small. mask: see `spectral_distances`.
    """
    p, q, inside = _powers(x, y, window, mask)
    square = jnp.mean((10 / log(10) * (jnp.log(p) - jnp.log(q))) ** 2, axis=-1)
    inside = inside[..., 0]
    return per_example(inside * jnp.sqrt(square)) / (per_example(inside) * square[0].size / inside[0].size)


def signal_to_distortion(x: Float[Array, "B T C"], y: Float[Array, "B T C"]) -> Float[Array, " B"]:
    """Scale-invariant signal-to-distortion ratio of y, SI-SDR, in dB (Le Roux, Wisdom, Erdogan & Hershey 2019).

    10 log10(|a x|^2 / |a x - y|^2) with a = x . y / |x|^2; each square is at least 1e-8.
    """
    tiny = 1e-8
    scale = per_example(x * y) / jnp.maximum(per_example(x**2), tiny)
    target = scale[:, None, None] * x
    ratio = jnp.log(jnp.maximum(per_example(target**2), tiny)) - jnp.log(
        jnp.maximum(per_example((target - y) ** 2), tiny)
    )
    return 10 / log(10) * ratio


def _powers(
    x: Float[Array, "B T C"], y: Float[Array, "B T C"], window: int, mask: Float[Array, "B T"] | None
) -> tuple[Float[Array, "B C F K"], Float[Array, "B C F K"], Float[Array, "B 1 F 1"]]:
    """The power of both signals, plus `FLOOR`, and whether a frame is centred within the signal."""
    p, q = (power(jnp.swapaxes(signal, 1, 2), window) + FLOOR for signal in (x, y))
    inside = jnp.ones((len(x), p.shape[2])) if mask is None else mask[:, :: window // 4]
    return p, q, inside[:, None, :, None]
