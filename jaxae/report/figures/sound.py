"""Recordings: spectrograms of test recordings and of their reconstructions, and both as WAV files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxae.data import Dataset, spread
from jaxae.report.figures.base import canvas, encoded, in_units, label
from jaxae.report.figures.conditions import own
from jaxae.training.trained import Trained
from jaxae.variants.spectra import power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 5  # test recordings
SHORTEST = 0.1  # seconds of a recording that is worth hearing
LONGEST = 2**15  # samples of a WAV file: ten of them are 0.9 MB in a report
WINDOW = 0.032  # seconds of a spectrogram's window
RANGE = 70.0  # dB below the largest power


class Pairs(NamedTuple):
    """Test recordings and their reconstructions, in the user's units, without padding."""

    places: Int[np.ndarray, " N"]  # indices of the recordings
    before: list[Float[np.ndarray, " _"]]  # samples of each recording
    after: list[Float[np.ndarray, " _"]]  # and of its reconstruction


def pairs_of(model: Trained, data: Dataset) -> Pairs:
    """Five test recordings."""
    places = spread(len(data.test.x), SHOWN)
    decoded = np.asarray(model.decode(encoded(model, data.test, places), **own(model, data, places)))[..., 0]
    x = in_units(data, data.test.x[places])[..., 0]
    lengths = [len(x[0])] * len(x) if data.test.lengths is None else data.test.lengths[places].tolist()
    before, after = ([row[:length] for row, length in zip(rows, lengths, strict=True)] for rows in (x, decoded))
    return Pairs(places, before, after)


def is_audible(data: Dataset) -> bool:
    """Whether the examples are recordings of one channel that are not too short to be heard."""
    return data.sample_rate > 0 and data.shape[1:] == (1,) and data.shape[0] >= SHORTEST * data.sample_rate


def spectrograms(pairs: Pairs, data: Dataset, title: str) -> "Figure":
    """Spectrograms of test recordings above those of their reconstructions, with one scale of dB."""
    places, before, after = pairs
    window = max(4, 4 * round(WINDOW * data.sample_rate / 4))
    figure = canvas(f"{title}: spectrograms of test recordings and their reconstructions", 2.4 * SHOWN, 5.0)
    axes = figure.subplots(2, len(places), sharey=True, squeeze=False)
    image: Any = None
    padded = np.stack([[np.pad(x, (0, data.shape[0] - len(x))) for x in rows] for rows in (before, after)])
    powers = np.asarray(power(jnp.asarray(padded, jnp.float32), window))
    for number, (place, column) in enumerate(zip(places, axes.T, strict=True)):
        seconds = len(before[number]) / data.sample_rate
        frames = -(-len(before[number]) // (window // 4))
        levels = 10 * np.log10(powers[:, number, :frames] + 1e-20).swapaxes(1, 2)
        top = levels[0].max()
        for axis, level in zip(column, levels, strict=True):
            extent = (0, seconds, 0, data.sample_rate / 2000)
            image = axis.imshow(level - top, origin="lower", aspect="auto", extent=extent, vmin=-RANGE, vmax=0)
            axis.tick_params(labelsize=7)
        column[1].set_xlabel("seconds", fontsize=8)
        if data.classes:
            column[0].set_title(f"class {label(data.classes, int(data.test.y[place]))}", fontsize=9)
    for line, name in zip(axes, ("original", "reconstruction"), strict=True):
        line[0].set_ylabel(f"{name}\nkHz", fontsize=8)
    figure.colorbar(image, ax=axes, label="dB below the largest power")
    return figure


def write(folder: Path, pairs: Pairs, sample_rate: int) -> None:
    """Write recordings and their reconstructions as WAV files of 16 bits.

    The files hold the first `LONGEST` samples, divided by the largest magnitude of the original if it exceeds 1, and
    clipped to [-1, 1].
    """
    from scipy.io import wavfile

    for number, pair in enumerate(zip(pairs.before, pairs.after, strict=True), 1):
        largest = max(1.0, float(np.abs(pair[0]).max()))
        for name, x in zip(("original", "reconstruction"), pair, strict=True):
            part = (x / largest).clip(-1, 1)[:LONGEST]
            wavfile.write(folder / f"{number} {name}.wav", sample_rate, np.round(32767 * part).astype(np.int16))
