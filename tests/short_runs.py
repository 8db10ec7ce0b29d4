"""Trains every experiment for a few steps: prints the SHA-256 of all its arrays, and writes its figures into a file.

In its own process. `python tests/short_runs.py tests/golden.json` writes down what is right from now on; names that
follow are those of the experiments that are trained.
"""

import hashlib
import importlib
import json
import pkgutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import experiments
from jaxae import data, log, loop, parallel
from jaxae.checkpoint import recorded

NAMES = [f"experiments.{module.name}" for module in pkgutil.iter_modules(experiments.__path__)]
FIELDS = {"experiments.stacked": {"epochs": 4, "greedy": 1}}  # every one of its phases
# Their losses, or what they keep, look at a batch as a whole: it is not taken in parts.
WHOLE = {f"experiments.{name}" for name in ("factor_vae", "infovae", "tcvae", "vqvae", "wae")}


def short_run(name, part):
    """Three steps (in stacked, of each phase), and an evaluation."""
    module = importlib.import_module(name)
    config = module.Config(**{"epochs": 1, "batch_size": 16, "picture_every": 0, **FIELDS.get(name, {})})
    with tempfile.TemporaryDirectory() as folder:
        plan = parallel.plan("auto", 16, 1, jax.devices()[:1])
        state = loop.fit(module.build(config, part.info), config, part, plan, Path(folder)).state
        digests = recorded(Path(folder) / "checkpoints")
        train, test = log.read(Path(folder) / "metrics.jsonl")[-2:]
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(state.params)))
    print("SHA-256", name, hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest())
    return {
        "train loss": train["loss"],
        "test loss": test["loss"],
        "norm of the parameters": float(f"{norm:.7g}"),
    }


def main(path, names):
    digits = data.load("digits")
    cut = [data.Split(split.x[:n], split.y[:n]) for split, n in ((digits.train, 48), (digits.test, 20))]
    part = data.Dataset(*cut, digits.classes)
    path.write_text(json.dumps({name: short_run(name, part) for name in names}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or NAMES)
