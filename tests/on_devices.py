"""Trains an experiment on several devices; prints the largest relative differences as JSON.

Arguments: its module; `all` ways on 1, 2, 4 and 8 devices, `some` of them, or a `fast` one; fields as JSON. One seed,
and four unless it is to be fast. With `bits` those that are to be the same to the bit, with the experiment's optimizer.
Run in its own process, since the number of virtual devices is fixed when JAX starts.
`python tests/on_devices.py tests/devices.json` writes down the table of all experiments, or of those that follow.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

import numpy as np
import optax

from jaxae import data, log, loop, parallel
from short_runs import FIELDS, NAMES, WHOLE


class Way(NamedTuple):
    """How to train."""

    mode: str
    devices: int
    reduction: str = "fast"
    accumulate: int = 1

    def __str__(self):
        more = f" --accumulate {self.accumulate}" if self.accumulate > 1 else ""
        return f"{self.mode if self.reduction == 'fast' else self.reduction} {self.devices}{more}"


FAST = [Way("pmap", 4), Way("pmap", 2, accumulate=4), Way("jit", 2)]
SOME = [Way("pmap", 2), Way("pmap", 8), Way("jit", 1), Way("jit", 4)]
SPLIT = [Way(mode, n) for mode in ("pmap", "jit") for n in (1, 2, 4, 8)]
BITS = [Way("auto", n, "reproducible") for n in (1, 2, 4, 8)]
PARTS = [
    *BITS,
    *(Way(mode, n, "fast", 4) for mode, n in (("auto", 1), ("pmap", 4), ("jit", 2))),
]
CHOSEN = {"all": SPLIT + PARTS, "some": SOME, "split": SPLIT, "fast": FAST, "one": FAST[:1], "bits": BITS}
RATES = {"experiments.sigmoid": 10.0}  # elsewhere parameters move enough at 1e-3


def fit(name, way, seeds, fields):
    """State and metrics after epochs of 5 steps, each with an evaluation."""
    module = importlib.import_module(name)
    config = module.Config(**{"epochs": 1, "batch_size": 32, "seeds": seeds, "picture_every": 0, **fields})
    dataset = data.load(config.data)
    cut = [jax.tree.map(lambda a, n=n: a[:n], split) for split, n in zip(dataset[:2], (160, 75), strict=True)]
    part = data.Dataset(*cut, dataset.classes)
    devices = jax.devices()[: way.devices]
    plan = parallel.plan(way.mode, config.batch_size, seeds, devices, way.reduction, way.accumulate)
    with tempfile.TemporaryDirectory() as folder:
        outcome = loop.fit(module.build(config, part.info), config, part, plan, Path(folder))
        lines = log.read(Path(folder) / "metrics.jsonl")
    assert np.all(outcome.state.step == 5 * config.epochs)
    return outcome.state, {f"{line['split']} {m}": line[m] for line in lines for m in log.names(line)}


def difference(a, b):
    """The largest relative difference |u - v| / |v| of two trees' leaves, in the Euclidean norm."""

    def relative(u, v):
        changed = np.linalg.norm(np.ravel(u) - np.ravel(v))
        return float(changed / np.linalg.norm(np.ravel(v))) if changed else 0.0  # also where both are zero

    return max(relative(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def plain_descent(rate):
    """Adam and Adadelta divide by the size of the gradient: what is zero but for rounding becomes a whole step.

    Small steps of plain descent do not let rounding grow either, and what starts at 0 shows every gradient. Optimizers
    work on the gradient of the whole batch, element by element: devices can make no difference after it.
    """
    for name in ("adam", "adadelta"):
        setattr(optax, name, lambda *_, **__: optax.sgd(rate))


def table(name, chosen, fields):
    """The differences of parameters and of metrics from the run on one device, by the way to train and the seeds."""
    rows = {}
    for seeds in (1,) if chosen in ("fast", "one") else (1, 4):
        state, metrics = fit(name, BITS[0] if chosen == "bits" else Way("auto", 1), seeds, fields)
        for way in CHOSEN[chosen]:
            if name in WHOLE and (way.accumulate > 1 or way.reduction != "fast"):
                continue
            other, measured = fit(name, way, seeds, fields)
            change = difference((other.params, other.extra), (state.params, state.extra))
            rows[f"{way}, {seeds} seeds"] = [float(f"{d:.1e}") for d in (change, difference(measured, metrics))]
    return rows


def write(path, names):
    """Measure these experiments again, each in a process of its own, and put them into the table."""
    tables = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        command = [sys.executable, __file__, name, "all", json.dumps(FIELDS.get(name, {}))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        tables[name] = json.loads(done.stdout.splitlines()[-1])
        path.write_text(json.dumps({name: tables[name] for name in NAMES if name in tables}, indent=1) + "\n")


if __name__ == "__main__":
    first, *more = sys.argv[1:]
    if first.endswith(".json"):
        write(Path(first), more or NAMES)
    else:
        if first != "toy" and more[0] != "bits":
            plain_descent(RATES.get(first, 1e-3))
        print(json.dumps(table(first, more[0], json.loads(more[1]))))
