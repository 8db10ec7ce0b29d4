"""Compare a run of `jaxae codec` on recordings with classes with Opus (opusenc and opusdec of opus-tools).

    python scripts/speech.py runs/codec --classifier runs/digits.npz --quantizers 3 6 --opus 6

Prints for the original test recordings, for the codec with its first quantizers, and for Opus: bits per second (of the
indices; of the packets of Opus without the container), the log-spectral distance in dB, SI-SDR in dB, and the accuracy
of a classifier of spectrograms that is trained on the original recordings of the training split, and written into
--classifier.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import log2
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

import jaxae
from jaxae import run
from jaxae.data import Dataset, Split
from jaxae.measure import classifier
from jaxae.variants import spectra

WINDOW = 128  # samples, of the spectrograms that are classified
SIZE = 32, 64  # numbers of their frequencies and times
FLOOR, TOP = -50.0, 50.0  # dB that are black and white, relative to white noise of the variance of the data
CHUNK = 50  # recordings per call


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments."""

    codec: Annotated[Path, tyro.conf.Positional]
    """Finished run of `jaxae codec`."""
    classifier: Path
    """File of the classifier's weights, written if there is none."""
    epochs: int = 20
    """Passes over the training split, for the classifier."""
    quantizers: tuple[int, ...] = (3, 6)
    """Numbers of quantizers to decode from."""
    opus: tuple[float, ...] = (6.0,)
    """Bit rates of Opus in kbit/s (none: without Opus)."""


def main(options: Options) -> None:
    """Print the table."""
    _, data = run.same_data([options.codec])
    model = jaxae.load(options.codec)
    accuracy = partial(classifier.accuracy, digits(data, options))
    print("| recordings | bits per second | log-spectral distance | SI-SDR | accuracy |\n|---|---|---|---|---|")
    print(row("original", 0.0, data.test.x, data, accuracy))
    for count in options.quantizers:
        rate, y = decoded(model, data, count)
        print(row(f"codec, {count} quantizers", rate, y, data, accuracy))
    for kilobits in options.opus:
        rate, y = by_opus(data, kilobits)
        print(row(f"Opus at {kilobits:g} kbit/s", rate, y, data, accuracy))


def row(
    name: str,
    rate: float,
    y: Float[np.ndarray, "N T 1"],
    data: Dataset,
    accuracy: Callable[[Split], float],
) -> str:
    """The metrics of a version y of the test recordings, in model units. accuracy: accuracy of the classifier."""
    x, mask = data.test.x, within(data.test)
    y = y * mask[..., None]
    right = accuracy(data.test._replace(x=pictures(y), lengths=None))
    quality = "- | - | -"
    if name != "original":
        parts = [tuple(jnp.asarray(a[i : i + CHUNK]) for a in (x, y, mask)) for i in range(0, len(x), CHUNK)]
        lsd = np.concatenate([spectra.log_spectral_distance(a, b, 256, m) for a, b, m in parts])
        ratio = np.concatenate([spectra.signal_to_distortion(a, b) for a, b, _ in parts])
        quality = f"{rate:,.0f} | {lsd.mean():.2f} dB | {ratio.mean():.2f} dB"
    return f"| {name} | {quality} | {right:.1%} |"


def within(split: Split) -> Float[np.ndarray, "N T"]:
    """1 within a recording, 0 after its end."""
    steps = split.x.shape[1]
    ends = np.full(len(split.x), steps) if split.lengths is None else split.lengths
    return jaxae.data.within(ends, steps).astype(np.float32)


def pictures(x: Float[np.ndarray, "N T 1"]) -> Float[np.ndarray, "N K F 1"]:
    """Spectrograms in dB, averaged over neighbouring frequencies and times, as images in [0, 1] of `SIZE`."""
    found = []
    for i in range(0, len(x), CHUNK):
        p = np.asarray(spectra.power(jnp.asarray(x[i : i + CHUNK, :, 0]), WINDOW))[..., :-1]  # without the last one
        p = p[:, : p.shape[1] // SIZE[1] * SIZE[1]]
        p = p.reshape(len(p), SIZE[1], -1, SIZE[0], p.shape[2] // SIZE[0]).mean((2, 4))
        levels = 10 * np.log10(p + 10 ** (FLOOR / 10))
        found.append(((levels - FLOOR) / (TOP - FLOOR)).clip(0, 1).swapaxes(1, 2)[..., None])
    return np.concatenate(found).astype(np.float32)


def digits(data: Dataset, options: Options) -> Any:
    """Weights of the classifier: those in the file; without it, they are trained and written."""
    parts = (split._replace(x=pictures(split.x), lengths=None) for split in (data.train, data.test))
    images = Dataset(*parts, data.classes)
    if options.classifier.exists():
        return classifier.load(options.classifier, images)
    weights = classifier.train(images, options.epochs)
    classifier.save(options.classifier, weights)
    return weights


def decoded(model: Any, data: Dataset, count: int) -> tuple[float, Float[np.ndarray, "N T 1"]]:
    """Bits per second, and the test recordings decoded from their first `count` indices, in model units."""
    net = model.experiment.model

    @jax.jit
    def both(variables: Any, x: Float[Any, "n T 1"]) -> tuple[Any, Any]:
        indices = net.apply(variables, x, method="indices")[..., :count]
        return indices, net.apply(variables, net.apply(variables, indices, method="embed"), method="decode")

    x = data.test.x
    found = [both(model.variables, jnp.asarray(x[i : i + CHUNK])) for i in range(0, len(x), CHUNK)]
    bits = found[0][0][0].size * log2(net.codes)
    return bits * data.sample_rate / x.shape[1], np.concatenate([y for _, y in found])


def by_opus(data: Dataset, kilobits: float) -> tuple[float, Float[np.ndarray, "N T 1"]]:
    """Bits per second, and the test recordings coded by Opus at a constant bit rate, in model units."""
    from scipy.io import wavfile

    encoder, decoder = (shutil.which(name) or name for name in ("opusenc", "opusdec"))
    offset, factor = (0.0, 1.0) if data.scale is None else (float(part[0]) for part in data.scale)
    lengths = within(data.test).sum(1).astype(int)
    y, size = np.zeros_like(data.test.x), 0
    with tempfile.TemporaryDirectory() as folder:
        before, coded, after = (str(Path(folder) / name) for name in ("before.wav", "coded.opus", "after.wav"))
        for x, z, length in zip(data.test.x, y, lengths.tolist(), strict=True):
            samples = (offset + factor * x[:length, 0]).clip(-1, 1)
            wavfile.write(before, data.sample_rate, np.round(32767 * samples).astype(np.int16))
            how = ["--quiet", "--bitrate", str(kilobits), "--hard-cbr", "--speech"]
            subprocess.run([encoder, *how, before, coded], check=True)
            subprocess.run([decoder, "--quiet", "--rate", str(data.sample_rate), coded, after], check=True)
            found = wavfile.read(after)[1][:length] / 32767
            z[: len(found), 0] = (found - offset) / factor
            size += sum(packets(Path(coded).read_bytes()))
    return 8 * size * data.sample_rate / int(lengths.sum()), y


def packets(ogg: bytes) -> Iterator[int]:
    """Number of bytes of packets in each page of an Ogg file after the two pages of headers (RFC 3533, section 6)."""
    place = 0
    for number in range(len(ogg)):
        if place >= len(ogg):
            return
        if ogg[place : place + 4] != b"OggS":
            raise ValueError(f"byte {place} does not start a page")
        segments = ogg[place + 26]
        size = sum(ogg[place + 27 : place + 27 + segments])
        place += 27 + segments + size
        if number >= 2:
            yield size


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
