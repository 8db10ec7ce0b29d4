"""Trains an experiment on several devices; prints the largest relative differences as JSON.

Arguments: its module; `all` modes on 1, 2, 4 and 8 devices, `some` of them, or a `fast` one; fields as JSON. One seed,
and four unless it is to be fast.
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
import optax

from jaxae import data, log, loop, parallel

MODES = [("auto", 1), *[(mode, n) for mode in ("pmap", "jit") for n in (1, 2, 4, 8)]]
CHOSEN = {"all": MODES[1:], "some": [("pmap", 2), ("pmap", 8), ("jit", 1), ("jit", 4)], "fast": [("pmap", 4)]}


def fit(name, mode, devices, seeds, fields):
    """State and metrics after epochs of 5 steps, each with an evaluation."""
    module = importlib.import_module(name)
    config = module.Config(**{"epochs": 1, "batch_size": 32, "seeds": seeds, "picture_every": 0, **fields})
    dataset = data.load(config.data)
    cut = [jax.tree.map(lambda a, n=n: a[:n], split) for split, n in zip(dataset[:2], (160, 75), strict=True)]
    part = data.Dataset(*cut, dataset.classes)
    plan = parallel.plan(mode, config.batch_size, seeds, jax.devices()[:devices])
    with tempfile.TemporaryDirectory() as folder:
        outcome = loop.fit(module.build(config, part.info), config, part, plan, Path(folder))
        lines = log.read(Path(folder) / "metrics.jsonl")
    assert np.all(outcome.state.step == 5 * config.epochs)
    return outcome.state, {f"{line['split']} {m}": line[m] for line in lines for m in log.names(line)}


def difference(a, b):
    """The largest relative difference |u - v| / |v| of two trees' leaves, in the Euclidean norm."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.linalg.norm(np.ravel(u) - np.ravel(v)) / np.linalg.norm(np.ravel(v))) for u, v in pairs)


def plain_descent():
    """Adam and Adadelta divide by the size of the gradient: what is zero but for rounding becomes a whole step.

    Small steps of plain descent do not let rounding grow either, and what starts at 0 shows every gradient. Optimizers
    work on the gradient of the whole batch, element by element: devices can make no difference after it.
    """
    for name in ("adam", "adadelta"):
        setattr(optax, name, lambda *_, **__: optax.sgd(1e-3))


def table(name, chosen, fields):
    """Rows of (mode, devices, seeds, difference of parameters, of metrics)."""
    rows = []
    for seeds in (1,) if chosen == "fast" else (1, 4):
        state, metrics = fit(name, *MODES[0], seeds, fields)
        for mode, devices in CHOSEN[chosen]:
            other, measured = fit(name, mode, devices, seeds, fields)
            change = difference((other.params, other.extra), (state.params, state.extra))
            rows.append([mode, devices, seeds, change, difference(measured, metrics)])
    return rows


if __name__ == "__main__":
    if sys.argv[1] != "toy":
        plain_descent()
    print(json.dumps(table(*sys.argv[1:3], json.loads(sys.argv[3]))))
