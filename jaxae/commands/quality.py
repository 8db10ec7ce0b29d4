"""Measure the sample quality of finished runs on the same data.

Computes Frechet distance, precision and recall (see jaxae/measure/quality.py) against the test images, in the features
of a classifier of these data, which is trained on first use, for: samples from the prior, if the model has one; samples
from a Gaussian mixture fitted to the codes of training images; reconstructions of the test images (of corrupted ones
for denoising and masked models), with PSNR and structural similarity (SSIM); and, for comparison, training images and
noise. Uses the first seed. For runs on binary images, the pixels of decoded images are sampled. Images without classes,
such as photographs, need a classifier of other images (--classifier).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxae import run
from jaxae.commands._arguments import Runs, module_of, parsed
from jaxae.core.types import Params
from jaxae.data import Dataset, Split, binary, slices, spread
from jaxae.errors import InputError
from jaxae.measure import classifier, images, mixture, quality
from jaxae.report.figures.base import unit
from jaxae.training.examples import own_conditions, part_of
from jaxae.training.trained import Trained

Chunks = Callable[[], Iterator[Split]]
RECONSTRUCTIONS = "reconstructions"


@dataclass(frozen=True, kw_only=True)
class Options(Runs):
    """Arguments of `jaxae quality`."""

    samples: int = 10_000
    """Maximum number of images in each set."""
    seed: int = 0
    """Seed of the samples."""
    components: int = 20
    """Number of components of the Gaussian mixture (0: no mixture)."""
    classifier: str = ""
    """File of classifier weights, written by `jaxae classifier`, possibly for images of another size or with other
    classes. (default: that in the cache)"""

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of range."""
        super().__post_init__()
        for name, least in (("samples", 4), ("seed", 0), ("components", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")


def main(argv: Sequence[str]) -> NoReturn:
    """Print the table, and exit."""
    run.program(lambda _: measure(parsed(Options, argv)))


def measure(options: Options) -> str:
    """The table. InputError for directories without a finished run, and for runs on different data."""
    module = module_of(options)
    saved, data = run.same_data(options.runs)
    how = saved[0]["config"]["binarize"]
    models = [run.load_finished(path, module, data)[0][0] for path in options.runs]
    data = binary.as_in_training(data, how)
    weights = _weights(Path(options.classifier), data) if options.classifier else classifier.load_or_train(data)

    count = min(options.samples, len(data.test.x), len(data.train.x) // 2)  # per set; the metrics depend on it
    test, train = (partial(chunks, split, count) for split in (data.test, data.train))
    real = np.concatenate([classifier.features(weights, part.x) for part in test()])
    small = min(data.shape[:2]) < len(images.WINDOW)

    def row(label: str, kind: str, sets: Iterable[np.ndarray]) -> str:
        similar: dict[str, list[float]] = {"psnr": [], "ssim": []}  # of each image

        def compared(sets: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            for decoded, part in zip(sets, test(), strict=True):
                pair = jnp.asarray(unit(part.x)), jnp.asarray(decoded)
                similar["psnr"].extend(images.psnr(*pair))
                if not small:
                    similar["ssim"].extend(images.ssim(*pair))
                yield decoded

        if kind == RECONSTRUCTIONS:
            sets = compared(sets)
        rng = np.random.default_rng(options.seed)

        def features(x: np.ndarray) -> np.ndarray:
            if how != "none":  # decoded images are Bernoulli means
                x = (rng.random(x.shape) < unit(x)).astype(np.float32)
            return classifier.features(weights, x)

        made = np.concatenate([features(x) for x in sets])
        precision, recall = quality.precision_recall(real, made)
        line = f"{label:<{width}}  {kind:<15}  {quality.frechet(real, made):8.4f}  {precision:9.3f}  {recall:6.3f}"
        psnr, ssim = (
            f"{np.mean(values):.{digits}f}" if values else "-"
            for values, digits in zip(similar.values(), (2, 4), strict=True)
        )
        return f"{line}  {psnr:>5}  {ssim:>6}"

    width = max(len(str(path)) for path in [*options.runs, "data"])
    rng = np.random.default_rng(options.seed)
    noise = (rng.random(part.x.shape, np.float32) for part in test())
    rows = [row("data", "training images", (part.x for part in train())), row("data", "noise", noise)]
    for path, model in zip(options.runs, models, strict=True):
        rows += [row(str(path), kind, sets) for kind, sets in made(model, data, train, test, count, options)]
    known = "images or classes differ"
    if classifier.suits(weights, data):
        known = f"test accuracy is {classifier.accuracy(weights, data.test):.2%}"
    return "\n".join(
        [
            f"{count} test images; the classifier's {known}",
            f"{'':<{width}}  {'':<15}  {'frechet':>8}  {'precision':>9}  {'recall':>6}  {'psnr':>5}  {'ssim':>6}",
            *rows,
        ]
    )


def _weights(path: Path, data: Dataset) -> Params:
    """Weights of a classifier of images with as many channels as the data. InputError for others."""
    weights = classifier.read(path)
    channels = classifier.channels(weights)
    if len(data.shape) != 3 or data.shape[2] != channels:
        raise InputError(
            f"classifier={path} is for images with {channels} channels, not examples {data.shape}; use another"
        )
    return weights


def chunks(split: Split, count: int) -> Iterator[Split]:
    """`count` examples, evenly spaced, in chunks, so that they need not fit into memory."""
    places = spread(len(split.x), count)
    return (split.take(places[part]) for part in slices(count, math.prod(split.x.shape[1:])))


def made(
    model: Trained, data: Dataset, train: Chunks, test: Chunks, count: int, options: Options
) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """Yield samples from the prior, if there is one, and from a fitted mixture, and reconstructions of test images.

    A conditional model decodes under the conditions of the test images. count: number of images in each set.
    """
    given = own_conditions(model, data, data.test, spread(len(data.test.x), count))
    parts = [*slices(count, math.prod(model.shape))]

    def decoded(codes: Array) -> Iterator[np.ndarray]:
        return (np.asarray(model.decode(codes[part], **part_of(given, part))) for part in parts)

    key = partial(jax.random.key, options.seed)
    if model.experiment.prior is not None:
        yield "prior", decoded(model.sample_codes(key(), count, **given))
    if options.components:
        codes = np.concatenate([np.asarray(model.encode(part)) for part in train()])
        fitted = mixture.fit(codes, options.components, options.seed)
        yield f"mixture of {options.components}", decoded(model.sample_codes(key(), count, fitted))
    yield (
        RECONSTRUCTIONS,
        (
            np.asarray(model.reconstruct(model.corrupted(some, part.start), **part_of(given, part)))
            for part, some in zip(parts, test(), strict=True)
        ),
    )
