"""Estimate the log-likelihood of the test split under the models of finished runs.

The same estimate as with `--log-likelihood-samples` (see jaxae/measure/likelihood.py), for every seed; prints a line of
JSON per run. For variational models, with a Bernoulli likelihood on binary images only.
Nothing is written into the run directory.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from jaxae import run
from jaxae.commands._arguments import Runs, module_of, parsed
from jaxae.core.experiment import Measure
from jaxae.data import Dataset
from jaxae.errors import InputError, input_errors
from jaxae.measure import measures
from jaxae.run import command_line, directory
from jaxae.training.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Options(Runs):
    """Arguments of `jaxae likelihood`."""

    samples: int = 5000
    """Number of importance samples per example."""

    def __post_init__(self) -> None:
        """Raise ValueError for fewer than two samples."""
        super().__post_init__()
        if self.samples < 2:
            raise ValueError(f"samples={self.samples} must be at least 2")


def main(argv: Sequence[str]) -> NoReturn:
    """Print the estimates, and exit."""
    run.program(lambda _: estimate(parsed(Options, argv)))


def estimate(options: Options) -> str:
    """Print one line per run, as soon as it is known. InputError, before the first line, if a run has no likelihood."""
    module = module_of(options)
    for title, measure, models, data in [found(path, options.samples, module) for path in options.runs]:
        estimates = measures.of_seeds(measure, models, data)
        print(json.dumps({"run": title, "samples": options.samples, **estimates}), flush=True)
    return ""


def found(path: Path, samples: int, module: ModuleType | None = None) -> tuple[str, Measure, list[Trained], Dataset]:
    """The title of a run, its likelihood measure, the model of each seed, and the data. InputError as in `estimate`."""
    saved = directory.read(path / "config.json")
    module, config = run.recorded_experiment(path, saved, module)
    if not hasattr(config, "log_likelihood_samples"):
        raise InputError(f"{path}: its model is not variational: it has no likelihood to estimate")
    every, data, _, title = run.load_finished(path, module)
    fields: dict[str, Any] = {"log_likelihood_samples": samples}
    try:
        with command_line.flags_of(config), input_errors():
            experiment = module.build(dataclasses.replace(config, **fields), data.info)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    models = [every[i] for i in range(config.seeds)]
    return title, experiment.measures["likelihood"], models, data
