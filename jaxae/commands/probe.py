"""Measure how well a linear classifier predicts the classes from the codes of finished runs.

A linear probe: scikit-learn's logistic regression on the standardised codes of the training split. Prints its error on
the test split in percent (mean and standard deviation over several seeds), and the error of the same classifier on the
pixels. Makhzani & Frey 2013 report such errors on MNIST for codes of 1,000 latent dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from jaxae import run
from jaxae.commands._arguments import Runs, module_of, parsed
from jaxae.data import binary
from jaxae.errors import InputError
from jaxae.measure import measures, probe
from jaxae.report import html
from jaxae.run import directory


@dataclass(frozen=True, kw_only=True)
class Options(Runs):
    """Arguments of `jaxae probe`."""

    iterations: int = probe.ITERATIONS
    """Maximum number of iterations of the logistic regression's optimizer."""

    def __post_init__(self) -> None:
        """Raise ValueError without an iteration."""
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1")


def main(argv: Sequence[str]) -> NoReturn:
    """Print the errors, and exit."""
    run.program(lambda _: errors(parsed(Options, argv)))


def errors(options: Options) -> str:
    """Print a line for each run as soon as it is measured. InputError for an unfinished run or data without classes."""
    module = module_of(options)
    pixels: dict[str, float] = {}  # by the data's fingerprint
    for path in options.runs:
        every, dataset, _, title = run.load_finished(path, module)
        config = directory.read(path / "config.json")["config"]
        dataset = binary.as_in_training(dataset, config["binarize"])
        if not dataset.classes:
            raise InputError(f"{path}: its data has no classes")
        data = dataset.fingerprint()
        if data not in pixels:
            pixels[data] = probe.error(dataset, dataset.train.x, dataset.test.x, options.iterations)
        models = [every[i] for i in range(len(every))]
        measure = partial(probe.measure, iterations=options.iterations)
        found = html.figure(measures.of_seeds(measure, models, dataset)["error"])
        print(f"{path}: {title}: error from codes {found} %, from pixels {pixels[data]:.4g} %", flush=True)
    return ""
