"""Run an experiment up to its first step: python first.py EXPERIMENT FLAGS. The benchmark times the process."""

import importlib
import sys
import tempfile

from jaxae import run
from jaxae.errors import Interrupted
from jaxae.run import command_line, compiled

module = importlib.import_module(f"jaxae.experiments.{sys.argv[1]}")
with compiled.persistent_cache(), tempfile.TemporaryDirectory() as folder:
    config = command_line.parse(module.Config, "", [*sys.argv[2:], "--workdir", folder])
    try:
        run.train(config, module.build, sys.argv[1], lambda _: True)
    except Interrupted:
        print("first step")
