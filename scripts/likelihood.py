"""The log-likelihood of the test split, of finished runs: python scripts/likelihood.py RUN [RUN ...] --samples 5000

The same estimate as with `--log-likelihood-samples` (see jaxae/measure/likelihood.py), for every seed; prints a line of
JSON per run. For variational models on binary images or with a normal likelihood.
Nothing is written into the run directory.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from jaxae import run
from jaxae.core.experiment import Measure
from jaxae.data import Dataset
from jaxae.errors import InputError, input_errors
from jaxae.measure import measures
from jaxae.run import command_line, directory, loop
from jaxae.training.trained import Trained


def main() -> None:
    run.program(estimate)


def estimate(_: loop.Stop) -> str:
    """Print a line for each run as it comes. InputError, before the first, where one has no likelihood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "--samples", type=int, default=5000, help="of the posterior of each image (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.samples < 2:
        raise InputError("--samples: at least 2")
    for title, measure, models, data in [found(path, options.samples) for path in options.runs]:
        estimates = measures.of_seeds(measure, models, data)
        print(json.dumps({"run": title, "samples": options.samples, **estimates}), flush=True)
    return ""


def found(path: Path, samples: int) -> tuple[str, Measure, list[Trained], Dataset]:
    """The title of a run, how its likelihood is estimated, its model for each seed, and its data."""
    saved = directory.read(path / "config.json")
    module, config = run.recorded(path, saved)
    if not hasattr(config, "log_likelihood_samples"):
        raise InputError(f"{path}: is not of a variational model")
    every, data, _, title = run.finished(path)
    try:
        with command_line.flags_of(config), input_errors():
            experiment = module.build(dataclasses.replace(config, log_likelihood_samples=samples), data.info)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    models = [every[i] for i in range(config.seeds)]
    return title, experiment.measures["likelihood"], models, data


if __name__ == "__main__":
    main()
