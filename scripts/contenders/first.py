"""An experiment up to its first step: `python first.py EXPERIMENT FLAGS`, timed from outside."""

import importlib
import sys
import tempfile

from jaxae import compiled, run
from jaxae import config as configs
from jaxae.errors import Interrupted

module = importlib.import_module(f"experiments.{sys.argv[1]}")
with compiled.kept(), tempfile.TemporaryDirectory() as folder:
    config = configs.parse(module.Config, "", [*sys.argv[2:], "--workdir", folder])
    try:
        run.train(config, module.build, module.__name__, lambda _: True)
    except Interrupted:
        print("first step")
