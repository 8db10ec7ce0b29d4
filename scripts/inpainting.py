"""Impute MNIST with half of the pixels missing completely at random, and compare with simple methods.

    python scripts/inpainting.py --mnist ../shared/data/mnist --runs runs/inpainting

Trains `jaxae miwae` on the training images with half of their pixels missing, and imputes test images with half of
theirs missing. Prints the root mean squared error of the removed pixels, in [0, 1], of every method, and the bound on
the observed pixels; writes a picture of ten images into --runs. Interrupted training resumes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import jaxae
from jaxae.commands._output import write_grid
from jaxae.report.figures.base import marked


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments."""

    runs: Path
    """Folder of the run and of the picture."""
    mnist: Path = Path("../shared/data/mnist")
    """Folder with the four files of MNIST."""
    epochs: int = 10
    """Passes over the training images."""
    samples: int = 1000
    """Importance samples of imputation."""
    images: int = 1000
    """Test images to impute."""
    neighbours: int = 5000
    """Training images among which nearest neighbours are searched."""


def half(x: np.ndarray, seed: int) -> np.ndarray:
    """A copy in [0, 1] with half of the pixels missing."""
    pixels = x[..., 0] / np.float32(255)
    pixels[np.random.default_rng(seed).random(pixels.shape, np.float32) < 0.5] = np.nan
    return pixels


def rmse(x: np.ndarray, missing: np.ndarray, filled: np.ndarray) -> float:
    """Root mean squared error of the missing pixels."""
    where = np.isnan(missing)
    return float(np.sqrt(np.mean((x[where] - filled.reshape(x.shape)[where]) ** 2)))


def main(options: Options) -> None:
    """Train, impute, and print the table."""
    from sklearn.impute import KNNImputer

    found = jaxae.data.load(str(options.mnist))
    train, test = half(found.train.x, 0), half(found.test.x[: options.images], 1)
    x = found.test.x[: options.images, ..., 0] / np.float32(255)
    model = jaxae.fit(
        "miwae",
        train,
        test=test,
        latent=20,
        samples=5,
        batch_size=128,
        epochs=options.epochs,
        workdir=options.runs / "miwae",
        figures=False,
        progress=False,
    )
    imputed = model.impute(test, options.samples)
    knn = KNNImputer().fit(train[: options.neighbours].reshape(options.neighbours, -1))
    means = np.broadcast_to(np.nanmean(train, axis=0), test.shape)
    filled = {
        "zero": np.nan_to_num(test),
        "mean": np.where(np.isnan(test), means, test),
        "5 neighbours": knn.transform(test.reshape(len(test), -1)).reshape(test.shape),
        "miwae": imputed.x,
    }
    print("\n".join(f"| {name} | {rmse(x, test, part):.4f} |" for name, part in filled.items()))
    bound = -model.history[-1]["loss"]
    print(f"bound on log p of the observed pixels, K = 5: {bound:.2f} nats; median ess {np.median(imputed.ess):.1f}")
    rows = [x[:10, ..., None], np.nan_to_num(test[:10, ..., None]), *(part[:10, ..., None] for part in filled.values())]
    rows[1] = marked(rows[1], np.isnan(test[:10, ..., None]))
    write_grid(options.runs / "inpainting.png", [np.broadcast_to(row, rows[1].shape) for row in rows], 10)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
