"""Compare autoencoders with principal components at the same code size, and with JPEG at the same number of bytes.

Source: Chollet 2016, who states that it is difficult to compress images better than JPEG with an autoencoder, and that
a linear one comes close to principal components.
Command: python scripts/compress.py --data mnist --latents 4 8 16 32 64 --epochs 30 --workdir runs/compression
Measured: squared error per pixel on the MNIST test split, seed 0 (18 minutes on two shared CPU
cores):

    bytes per image             4        8       16       32       64
    dense autoencoder     0.02748  0.01660  0.00991  0.00625  0.00482
    linear autoencoder    0.04763  0.03644  0.02543  0.01521  0.00782
    principal components  0.04737  0.03641  0.02538  0.01521  0.00775
    JPEG                        -        -        -  0.01219  0.00554

The second statement holds, and the first in part. The linear autoencoder comes within 1 % of principal components. The
dense one has the smallest error of all from 4 to 64 bytes. JPEG has no rate below 30 bytes, beats both linear codes at
32 and 64, reaches the smallest error of the dense one at 71, and has a smaller error than all of these autoencoders at
higher rates (quality 50: 162 bytes, 0.00118). With one file per image it needs at least 200 bytes, 170 of them for
header and tables.

The comparison is not like for like. JPEG is not fitted to digits. The decoders are, and the receiver needs them: with
64 numbers they take 1.9 MB for the dense autoencoder and 0.2 MB for the components, or 191 and 20 bytes for each of
10,000 images. On the other hand, a code takes one byte per number (uniform quantization between the extremes of the
training codes, with clipping), which adds next to no error, and has no entropy coding, unlike JPEG; the table has the
entropy, which is about a tenth smaller.

The workdir holds a run for each autoencoder, compression.md and compression.png. Repeating the command resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from io import BytesIO
from math import ceil, sqrt
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import optax
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA

import jaxae
from jaxae import data, nets, run
from jaxae.core.step import descend
from jaxae.errors import InputError, input_errors
from jaxae.experiments import dense
from jaxae.experiments.dense import Config
from jaxae.report import figures
from jaxae.run import command_line, loop
from jaxae.run.find import name_of
from jaxae.training.trained import Trained
from jaxae.variants import autoencoder

LEVELS = 256  # of a quantized number: one byte
QUALITIES = (1, 3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)  # of JPEG
BLOCK = 8  # width of a JPEG block in pixels; images that start at multiples of it share no block
PIXELS = 2**24  # maximum size of a mosaic
STYLES = ("o-", "s-", "D--", "^-", "v-")  # of the curves, so that overlapping ones stay visible


class Principal(NamedTuple):
    """The first `size` principal components, with `encode` and `decode` as in `Trained`; the output is not clipped."""

    pca: PCA
    size: int
    shape: tuple[int, ...]  # of an image

    def encode(self, x: np.ndarray) -> np.ndarray:
        return (x.reshape(len(x), -1) / 255 - self.pca.mean_) @ self.pca.components_[: self.size].T

    def decode(self, z: np.ndarray) -> np.ndarray:
        return (z @ self.pca.components_[: self.size] + self.pca.mean_).reshape(-1, *self.shape)


class Measured(NamedTuple):
    """Errors and entropy of a coder on the test images; errors are squared, mean over pixels in [0, 1]."""

    size: int  # dimensions of the code, one byte each
    name: str
    floats: float  # error from float codes
    error: float  # error from quantized codes
    entropy: float  # of the quantized codes, in bytes per image


class Jpeg(NamedTuple):
    """Bytes and error of JPEG at one quality on the test images."""

    quality: int
    shared: float  # bytes per image in a mosaic
    single: float  # bytes per image in one file per image
    error: float


def build(config: Config, info: run.Info) -> run.Experiment:
    """The linear autoencoder: one dense layer each way, squared error."""
    encoder = nets.MLP((), (config.latent,), axes=len(info.shape))
    model = autoencoder.Autoencoder(encoder, nets.MLP((), info.shape), output=nets.linear)
    loss = autoencoder.loss(model, "mse")
    return run.Experiment(model, descend(loss, optax.adam(config.lr)), loss, unit="per {value}")


def components(x: np.ndarray, most: int) -> PCA:
    """The first principal components of images."""
    return PCA(most, svd_solver="covariance_eigh").fit(x.reshape(len(x), -1) / 255)


def distortion(x: np.ndarray, y: np.ndarray) -> float:
    """Squared error of y, clipped to [0, 1], from the images x in 0..255: mean over images and pixels."""
    return float(np.mean((x / 255 - np.clip(y, 0, 1)) ** 2))


def quantise(z: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Index of the nearest of `LEVELS` values, evenly spaced from low to high; numbers outside are clipped."""
    span = np.where(high > low, high - low, 1)
    return np.clip(np.round((z - low) / span * (LEVELS - 1)), 0, LEVELS - 1).astype(np.uint8)


def dequantise(q: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The values of these indices: the inverse of `quantise`."""
    return low + q * ((high - low) / (LEVELS - 1))


def entropy(q: np.ndarray) -> float:
    """Bytes per image of an ideal entropy code for each dimension separately, with known frequencies."""
    shares = np.stack([np.bincount(column, minlength=LEVELS) for column in q.T]) / len(q)
    return float(-np.sum(shares * np.log2(shares, where=shares > 0, out=np.zeros_like(shares))) / 8)


def measure(name: str, size: int, coder: Trained | Principal, train: np.ndarray, test: np.ndarray) -> Measured:
    """Evaluate a coder on the test images; codes are quantized between the extremes of the training codes."""
    codes, z = np.asarray(coder.encode(train)), np.asarray(coder.encode(test))
    ends = codes.min(0), codes.max(0)
    q = quantise(z, *ends)
    errors = [distortion(test, np.asarray(coder.decode(code))) for code in (z, dequantise(q, *ends))]
    return Measured(size, name, *errors, entropy(q))


def tile(x: np.ndarray) -> np.ndarray:
    """Tile images [N, H, W, C] into a nearly square mosaic; every image starts at a multiple of `BLOCK`."""
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % BLOCK), (0, -x.shape[2] % BLOCK), (0, 0)), mode="edge")
    n, h, w, c = x.shape
    columns = min(n, ceil(sqrt(n * h / w)))
    rows = ceil(n / columns)
    x = np.pad(x, ((0, rows * columns - n), (0, 0), (0, 0), (0, 0)))
    return x.reshape(rows, columns, h, w, c).swapaxes(1, 2).reshape(rows * h, columns * w, c)


def cut(mosaic: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images [N, H, W, C] of this shape from a mosaic: the inverse of `tile`."""
    n, height, width, c = shape
    h, w = (size + -size % BLOCK for size in (height, width))
    x = mosaic.reshape(mosaic.shape[0] // h, h, mosaic.shape[1] // w, w, c).swapaxes(1, 2)
    return x.reshape(-1, h, w, c)[:n, :height, :width]


def store(x: np.ndarray, together: int, **how: Any) -> tuple[float, np.ndarray]:
    """Compress mosaics of up to `together` images; return the bytes per image and the decoded images."""
    size, back = 0, []
    for part in (x[i : i + together] for i in range(0, len(x), together)):
        mosaic, file = tile(part), BytesIO()
        Image.fromarray(mosaic[..., 0] if mosaic.shape[2] == 1 else mosaic).save(file, **how)
        size += file.tell()
        back.append(cut(np.asarray(Image.open(file)), part.shape))
    return size / len(x), np.concatenate(back)


def jpeg(x: np.ndarray, quality: int) -> Jpeg:
    """Compress as mosaics and as single files; the error is the same, since JPEG codes blocks independently."""
    how = {"format": "JPEG", "quality": quality, "subsampling": 0, "optimize": True}
    shared, back = store(x, max(1, PIXELS // tile(x[:1]).size), **how)
    single, _ = store(x, 1, **how)
    return Jpeg(quality, shared, single, distortion(x, back / 255))


def between(size: float, sizes: Sequence[float], errors: Sequence[float]) -> float | None:
    """Interpolate the error at this size, linearly in its logarithm; sizes increase. None outside their range."""
    if not sizes[0] <= size <= sizes[-1]:
        return None
    return float(np.exp(np.interp(size, sizes, np.log(errors))))


def psnr(error: float) -> float:
    """Peak signal-to-noise ratio in dB, for pixels in [0, 1]."""
    return float(-10 * np.log10(error))


def trained(options: argparse.Namespace, info: run.Info, size: int, stop: loop.Stop) -> dict[str, Trained]:
    """Train or load the autoencoders with a code of this size in the workdir."""
    fields = {"data": options.data, "data_dir": options.data_dir, "manual_dir": options.manual_dir}
    fields |= {"epochs": options.epochs, "batch_size": min(Config.batch_size, info.train), "latent": size}
    fields |= {"overwrite": options.overwrite, "figures": options.figures}
    models = {}
    for kind, module, hidden in (("dense", dense, Config.hidden), ("linear", sys.modules[__name__], ())):
        with command_line.flags_of(Config):
            with input_errors():
                config = Config(**fields, hidden=hidden, workdir=str(options.workdir / f"{kind}-{size}"))
            models[kind] = jaxae.load(run.train(config, module.build, name_of(module), stop), module)
    return models


def contest(options: argparse.Namespace, dataset: data.Dataset, stop: loop.Stop) -> list[Measured]:
    """Measure every coder at every size. InputError for data that are not images, and for sizes out of range."""
    train, test = dataset.train.x, dataset.test.x
    if train.dtype != np.uint8 or train.shape[3] not in (1, 3):
        raise InputError(f"--data {options.data}: JPEG needs grey or colour images, not {dataset.shape}")
    sizes, most = sorted(set(options.latents)), min(len(train), train[0].size)
    if sizes[0] < 1 or sizes[-1] > most:
        raise InputError(f"--latents {' '.join(map(str, sizes))} must be from 1 to {most}")
    if (options.workdir / "config.json").exists():
        raise InputError(f"--workdir {options.workdir} is a run directory; name another folder")
    models = {size: trained(options, dataset.info, size, stop) for size in sizes}
    pca = components(train, sizes[-1])
    return [
        measure(name, size, coder, train, test)
        for size in sizes
        for name, coder in (models[size] | {"PCA": Principal(pca, size, dataset.shape)}).items()
    ]


def table(title: str, coders: list[Measured], jpegs: list[Jpeg]) -> str:
    """The results as Markdown; the smallest error at each size is bold."""
    lines = [
        f"# {title}\n",
        "Squared error, mean over pixels in [0, 1], and its PSNR. A code of k numbers takes k bytes; the decoder,",
        "which the receiver needs, is not counted. The error of JPEG at k bytes is interpolated between qualities,",
        f"from {jpegs[0].shared:.1f} bytes at the lowest to {jpegs[-1].shared:.1f} at the highest.\n",
        "| bytes | coder | error | PSNR, dB | error, codes as floats | entropy of codes, bytes |",
        "|---|---|---|---|---|---|",
    ]
    sizes, errors = [j.shared for j in jpegs], [j.error for j in jpegs]
    for size in sorted({m.size for m in coders}):
        rows = [(m.name, m.error, f"{m.floats:.5f}", f"{m.entropy:.1f}") for m in coders if m.size == size]
        rows.append(("JPEG, mosaic", between(size, sizes, errors), "-", "-"))
        best = min(error for _, error, *_ in rows if error is not None)
        for name, error, *rest in rows:
            mark = "**" if error == best else ""
            both = "rate not reached | -" if error is None else f"{mark}{error:.5f}{mark} | {psnr(error):.2f}"
            lines.append(f"| {size} | {name} | {both} | {' | '.join(rest)} |")
    lines += ["\n| JPEG quality | bytes, mosaic | bytes, single file | error | PSNR, dB |", "|---|---|---|---|---|"]
    lines += [f"| {j.quality} | {j.shared:.1f} | {j.single:.1f} | {j.error:.5f} | {psnr(j.error):.2f} |" for j in jpegs]
    return "\n".join(lines) + "\n"


def picture(title: str, coders: list[Measured], jpegs: list[Jpeg]) -> Figure:
    """PSNR against bytes per image."""
    curves = {
        f"{name}, one byte per number": [(m.size, m.error) for m in coders if m.name == name]
        for name in dict.fromkeys(m.name for m in coders)
    }
    curves["JPEG, one mosaic"] = [(j.shared, j.error) for j in jpegs]
    curves["JPEG, a file per image"] = [(j.single, j.error) for j in jpegs]
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axis = figure.subplots()
    for (label, points), colour, style in zip(curves.items(), figures.COLOURS, STYLES, strict=False):
        x, y = zip(*((size, psnr(error)) for size, error in points), strict=True)
        axis.plot(x, y, style, color=colour, label=label, fillstyle="none", markersize=8)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(xlabel="bytes per image", ylabel="PSNR, dB (higher is better)", title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


class Parser(argparse.ArgumentParser):
    """A parser that raises a one-line InputError."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def compare(argv: Sequence[str] | None = None, stop: loop.Stop = loop.never) -> str:
    """Train, measure, write the files, and return the table.

    Raises InputError, errors.Diverged and errors.Interrupted.
    """
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="data set, as for the experiments (default: digits)")
    parser.add_argument("--data-dir", default="", help="folder of prepared TFDS data sets")
    parser.add_argument("--manual-dir", default="", help="folder of archives already downloaded")
    parser.add_argument("--latents", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="code sizes")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each autoencoder (default: 30)")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compression"), help="folder of all runs and results")
    parser.add_argument("--figures", choices=("all", "none"), default="all", help="as for the experiments")
    parser.add_argument("--overwrite", action="store_true", help="start again in a workdir that holds other runs")
    options = parser.parse_args(argv)
    dataset = run.loaded(Config(data=options.data, data_dir=options.data_dir, manual_dir=options.manual_dir))
    coders = contest(options, dataset, stop)
    test = dataset.test.x
    jpegs = [jpeg(test, quality) for quality in QUALITIES]
    title = f"{Path(options.data).name}: rate and distortion of {len(test):,} test images"
    text = table(title, coders, jpegs)
    (options.workdir / "compression.md").write_text(text)
    picture(title, coders, jpegs).savefig(options.workdir / "compression.png", dpi=130, metadata={"Software": None})
    return text


def main() -> None:
    run.program(lambda stop: compare(stop=stop))


if __name__ == "__main__":
    main()
