"""An experiment that draws nothing at its end, for tests of what it computes: `undrawn.py experiments.NAME FLAGS`."""

import importlib
import sys

from jaxae import figures, report, run


def draw_nothing():
    figures.draw = lambda *_: []
    report.write = lambda *_: None


if __name__ == "__main__":
    draw_nothing()
    module = importlib.import_module(sys.argv[1])
    run.main(module.Config, module.build, sys.argv[2:])
