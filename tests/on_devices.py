"""Trains an experiment on 1, 2, 4 and 8 devices in every mode; prints the largest relative differences as JSON.

Run in its own process, since the number of virtual devices is fixed when JAX starts.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

import numpy as np

from jaxae import data, log, loop, parallel

MODES = [("auto", 1), *[(mode, n) for mode in ("pmap", "jit") for n in (1, 2, 4, 8)]]


def fit(name, mode, devices, seeds=1):
    """State and metrics after 5 steps and an evaluation."""
    module = importlib.import_module(name)
    config = module.Config(epochs=1, batch_size=32, seeds=seeds)
    dataset = data.load("digits")
    part = data.Dataset(
        *(data.Split(s.x[:n], s.y[:n]) for s, n in zip(dataset[:2], (160, 75), strict=True)), dataset.classes
    )
    plan = parallel.plan(mode, config.batch_size, seeds, jax.devices()[:devices])
    with tempfile.TemporaryDirectory() as folder:
        outcome = loop.fit(module.build(config, part.shape), config, part, plan, Path(folder))
        lines = log.read(Path(folder) / "metrics.jsonl")
    assert np.all(outcome.state.step == 5)
    return outcome.state, {f"{line['split']} {m}": line[m] for line in lines for m in log.names(line)}


def difference(a, b):
    """The largest relative difference |u - v| / |v| of two trees' leaves, in the Euclidean norm."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.linalg.norm(np.ravel(u) - np.ravel(v)) / np.linalg.norm(np.ravel(v))) for u, v in pairs)


def table(name):
    """Rows of (mode, devices, seeds, difference of parameters, of metrics)."""
    rows = []
    for seeds in (1, 4):
        state, metrics = fit(name, *MODES[0], seeds)
        for mode, devices in MODES[1:]:
            other, measured = fit(name, mode, devices, seeds)
            change = difference((other.params, other.extra), (state.params, state.extra))
            rows.append([mode, devices, seeds, change, difference(measured, metrics)])
    return rows


if __name__ == "__main__":
    print(json.dumps(table(sys.argv[1])))
