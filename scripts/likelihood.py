"""The log-likelihood of the test split, of finished runs: python scripts/likelihood.py RUN [RUN ...] --samples 5000

As `--likelihood` estimates it at the end of a run (see jaxae/likelihood.py), of every seed; one line of JSON a run. For
variational models on binary images. Nothing is written into the run directory.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from jaxae import directory, loop, results, run
from jaxae.errors import InputError


def main() -> None:
    run.program(estimate)


def estimate(_: loop.Stop) -> str:
    """A line for each run. InputError for directories that hold no finished run, or one without a likelihood."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument(
        "--samples", type=int, default=5000, help="of the posterior of each image (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.samples < 2:
        raise InputError("--samples: at least 2")
    lines = []
    for path in options.runs:
        saved = directory.read(path / "config.json")
        module, config = run.recorded(path, saved)
        if not hasattr(config, "likelihood"):
            raise InputError(f"{path}: is not of a variational model")
        _, data, _, title = run.finished(path)
        experiment = module.build(dataclasses.replace(config, likelihood=options.samples), data.info)
        models = [run.load(path, seed=seed) for seed in range(config.seeds)]
        found = results.of_seeds(experiment.measures["likelihood"], models, data)
        lines.append(json.dumps({"run": title, "samples": options.samples, **found}))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
