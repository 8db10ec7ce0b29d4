"""WAV recordings as series of samples in [-1, 1]."""

import warnings
from collections import Counter
from collections.abc import Sequence
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxae.errors import BROKEN_FILE, InputError, first_line

SUFFIXES = (".wav",)
MAX_SAMPLE_RATE = 1_000_000  # Hz; a file with a larger one is damaged
DAMAGED = 0.1  # largest fraction of recordings that may be unreadable


class Decoded(NamedTuple):
    """Samples of every recording, [T, 1]; their sample rate in Hz; the indices of the readable files; notes."""

    parts: list[Float[np.ndarray, "_ 1"]]
    sample_rate: int
    places: list[int]
    notes: tuple[str, ...]


def decode(paths: Sequence[Path], sample_rate: int = 0) -> Decoded:
    """Decode recordings: average the channels, and resample to `sample_rate` in Hz (0: the most common one).

    Up to a tenth of the files may be unreadable; they are left out. InputError for more of them.
    """
    found: list[tuple[int, np.ndarray]] = []
    places: list[int] = []
    broken: dict[Path, str] = {}  # what is wrong with each file
    multichannel = 0
    for place, path in enumerate(paths):
        try:
            own, x = _read(path)
        except Exception as error:  # SciPy raises many types of exceptions
            broken[path] = f"{path} cannot be read ({first_line(error)}); {BROKEN_FILE}"
            if len(broken) > DAMAGED * len(paths):
                raise InputError(next(iter(broken.values()))) from None
            continue
        multichannel += x.shape[1] > 1
        found.append((own, x.mean(1, keepdims=True)))
        places.append(place)
    rates = Counter(own for own, _ in found)
    rate = sample_rate or rates.most_common(1)[0][0]
    notes = [f"sample rate {rate:,} Hz"]
    if multichannel:
        notes.append(f"channels of {_count(multichannel)} averaged")
    if others := len(found) - rates[rate]:
        notes.append(f"{_count(others)} with another sample rate resampled")
    if broken:
        notes.append(f"{_count(len(broken), 'damaged ')} left out ({next(iter(broken)).name})")
    return Decoded([_resampled(x, own, rate) for own, x in found], rate, places, tuple(notes))


def _read(path: Path) -> tuple[int, Float[np.ndarray, "T C"]]:
    from scipy.io import wavfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of chunks other than samples
        warnings.filterwarnings("error", "Reached EOF", wavfile.WavFileWarning)
        rate, x = wavfile.read(path)
    if not (x.size and 1 <= rate <= MAX_SAMPLE_RATE):
        raise ValueError(f"it has {len(x):,} samples, {rate:,} per second")
    if x.dtype.kind == "f":
        if not np.isfinite(x).all():
            raise ValueError("it has samples that are not finite")
    else:
        middle = 128.0 if x.dtype == np.uint8 else 0.0
        x = (x - np.float64(middle)) / 2.0 ** (8 * x.dtype.itemsize - 1)
    return rate, x.reshape(len(x), -1).astype(np.float32)


def _resampled(x: Float[np.ndarray, "T 1"], rate: int, wanted: int) -> Float[np.ndarray, "_ 1"]:
    from scipy.signal import resample_poly

    if rate == wanted:
        return x
    common = gcd(rate, wanted)
    resampled: np.ndarray = resample_poly(x, wanted // common, rate // common)
    return resampled


def _count(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}recording{'s' * (count > 1)}"
