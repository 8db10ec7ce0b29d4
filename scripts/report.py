"""Makes the page of a finished run again: python scripts/report.py RUN. Its data must still be there."""

import argparse
import importlib
from pathlib import Path

from jaxae import run
from jaxae.errors import InputError
from jaxae.report import html


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--module", help="module of the experiment, where it is not in the package experiments")
    options = parser.parse_args()
    path = options.run
    try:
        module = importlib.import_module(options.module) if options.module else None
        model, data, result, title = run.finished(path, module)
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    html.write(path, title, model[0], data, result)
    print(f"report: {path / 'report.html'}")


if __name__ == "__main__":
    main()
