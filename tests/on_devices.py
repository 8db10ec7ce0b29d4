"""Train an experiment on several devices, and print the largest relative differences as JSON.

Arguments: the experiment's module; the set of plans (`all`; `split`, on 1, 2, 4 and 8 devices without microbatches;
`fast`, four of them; `one`, pmap on 4 devices; `fsdp`, on 2 and 8 devices; `bits`, the reproducible ones, with the
experiment's own optimizer); fields as JSON. Each plan runs with one seed and, unless the set is `fast` or `one`, also
with four. `terms` in place of a module: one gradient of each term of the global batch, on 2 and 8 devices.
Runs in a separate process, since the number of virtual devices is fixed when JAX starts.
`python tests/on_devices.py tests/devices.json [NAME ...]` records the table of all experiments, or of those named.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if "bits" not in sys.argv:  # compiles in a third of the time, with the same order of summation
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"

import jax
import jax.numpy as jnp

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

import numpy as np
import optax
from flax import linen as nn

from jaxae import data, run
from jaxae.core import mmd
from jaxae.core.batch import Batch
from jaxae.core.divergences import DiagonalNormal
from jaxae.core.reduction import gradient
from jaxae.devices.plan import compile, plan
from jaxae.training.iterate import iterate
from jaxae.training.start import start
from jaxae.variants import quantize, tcvae
from jaxae.variants.dead_latents import unused_steps
from jaxae.variants.dictionary import Weights
from jaxae.variants.kl_autoencoder import adaptive_weight
from jaxae.variants.top_k import BatchTopK
from short_runs import FIELDS, NAMES


class Way(NamedTuple):
    """Mode, number of devices, reduction and microbatches."""

    mode: str
    devices: int
    reduction: str = "fast"
    accumulate: int = 1

    def __str__(self):
        more = f" --accumulate {self.accumulate}" if self.accumulate > 1 else ""
        return f"{self.mode if self.reduction == 'fast' else self.reduction} {self.devices}{more}"


FAST = [Way("pmap", 4), Way("pmap", 2, accumulate=4), Way("jit", 2), Way("fsdp", 4)]
FSDP = [Way("fsdp", 2), Way("fsdp", 8), Way("fsdp", 8, "fast", 4)]
SPLIT = [Way(mode, n) for mode in ("pmap", "jit") for n in (1, 2, 4, 8)]
BITS = [Way("auto", n, "reproducible") for n in (1, 2, 4, 8)]
MICROBATCHES = [
    *BITS,
    *(Way(mode, n, "fast", 4) for mode, n in (("auto", 1), ("pmap", 4), ("jit", 2))),
]
CHOSEN = {"all": SPLIT + MICROBATCHES, "split": SPLIT, "fast": FAST, "one": FAST[:1], "fsdp": FSDP, "bits": BITS}
OURS = ("toy", "foreign")  # modules of this folder
RATES = {"planar": 10.0, "sigmoid": 10.0}  # all others: 1e-3


def fit(name, way, seeds, fields):
    """State and metrics after epochs of 5 steps, each with an evaluation."""
    module = importlib.import_module(name if name in OURS else f"jaxae.experiments.{name}")
    config = module.Config(**{"epochs": 1, "batch_size": 32, "seeds": seeds, **fields})
    dataset = data.load(config.data)
    cut = [jax.tree.map(lambda a, n=n: a[:n], split) for split, n in zip(dataset[:2], (160, 75), strict=True)]
    part = dataset._replace(train=cut[0], test=cut[1], valid=None)
    devices = jax.devices()[: way.devices]
    experiment = run.built(config, module.build, part.info)
    before, _ = start(experiment, part.info, config.batch_size, range(seeds))
    *_, end = iterate(
        experiment,
        part,
        initial=(without_zeros(before.params), before.extra),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        seeds=seeds,
        plan=plan(way.mode, config.batch_size, seeds, devices, way.reduction, way.accumulate),
    )
    state = jax.device_get(end.state)
    assert np.all(state.step == 5 * config.epochs)
    return state, {"train": end.train, "test": end.test}


def without_zeros(params):
    """Sample from N(0, 0.01^2) what starts at 0, such as biases.

    The gradients of some biases nearly cancel over a batch: relative to these alone, rounding errors are large.
    """
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p if p.any() else p + 0.01 * rng.normal(size=p.shape).astype(p.dtype), params)


def difference(a, b):
    """The largest relative difference |u - v| / |v| of two trees' leaves, in the Euclidean norm."""

    def relative(u, v):
        changed = np.linalg.norm(np.ravel(u) - np.ravel(v))
        return float(changed / np.linalg.norm(np.ravel(v))) if changed else 0.0  # 0 if both are zero

    return max(relative(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def plain_descent(rate):
    """Replace Adam and Adadelta by SGD with a small learning rate.

    Both divide by the size of the gradient, which turns rounding errors into full steps; SGD does not amplify them.
    Optimizers act element by element on the gradient of the global batch, so that they cannot depend on the devices.
    """
    for name in ("adam", "adadelta"):
        setattr(optax, name, lambda *_, **__: optax.sgd(rate))


def table(name, chosen, fields):
    """Differences of parameters and of metrics from the run on one device, by plan and number of seeds."""
    rows = {}
    for seeds in (1,) if chosen in ("fast", "one") else (1, 4):
        state, metrics = fit(name, BITS[0] if chosen == "bits" else Way("auto", 1), seeds, fields)
        for way in CHOSEN[chosen]:
            try:
                other, measured = fit(name, way, seeds, fields)
            except ValueError as error:
                if "global batch" not in str(error):
                    raise
                continue  # its loss or its batch norm needs the global batch
            change = difference((other.params, other.extra), (state.params, state.extra))
            rows[f"{way}, {seeds} seeds"] = [float(f"{d:.1e}") for d in (change, difference(measured, metrics))]
    return rows


def mean_discrepancy(variables, batch, key):
    """The MMD of codes and samples of N(0, I), plus a term that differs between examples."""
    z = batch.x @ variables["params"]["a"]
    return {"loss": 0.7 * mmd.from_prior(batch, z, key) + 0.3 * jnp.sum(z**2, axis=1)}, {}


def total_correlation(variables, batch, key):
    """The three terms of the KL decomposition, with different weights."""
    q = DiagonalNormal(batch.x @ variables["params"]["a"], batch.x @ variables["params"]["b"])
    z = q.mean + jnp.exp(q.log_scale) * batch.noise(key, q.mean.shape[1:])
    global_q = DiagonalNormal(*(batch.gather(part) for part in q))
    mutual, correlation, divergence = tcvae.kl_decomposition(q, z, global_q, 1000)
    return {"loss": 0.5 * mutual + 6 * correlation + 0.8 * divergence, "correlation": correlation}, {}


def quantization(variables, batch, key):
    """EMA of the codebook, resampled codes, and a penalty on their mean usage."""
    z = batch.x @ variables["params"]["a"]
    codes = variables["codebook"]["codes"]
    soft = nn.softmax(z @ codes.T)
    evenness = jnp.sum((batch.mean(soft) - 1 / len(codes)) ** 2)
    found, updates = quantize.VQ(6, 3, decay=0.8, reinit_below=0.2).apply(
        variables, jax.lax.stop_gradient(z), batch, key, mutable=["codebook"]
    )
    return {**found.terms, "loss": jnp.sum((z - codes[0]) ** 2, axis=1) + 50 * batch.repeat(evenness)}, updates


def selection(variables, batch, key):
    """The largest activations of the batch, their threshold, and the steps since a latent was active."""
    a, b = variables["params"]["a"], variables["params"]["b"]
    weights = Weights(a, jnp.zeros(3), b.T, {"threshold": jnp.float32(0.4)})
    z, statistics = BatchTopK(1).train(batch.x, weights, batch)
    unused = unused_steps(jnp.arange(3), z, batch)
    return {"loss": jnp.sum((batch.x - z @ weights.decoder) ** 2, axis=1)}, {**statistics, "unused": 1.0 * unused}


def adversarial(variables, batch, key):
    """A loss with the adaptive weight of an adversarial loss."""
    z = batch.x @ variables["params"]["a"]
    features = jnp.tile(z[:, None, None], (1, 4, 4, 1)) * jnp.linspace(0.5, 1, 4)[:, None, None]
    slopes = features[..., :2], jnp.tanh(features[..., 1:])
    weight = batch.repeat(adaptive_weight(batch, features, jnp.ones((3, 3, 3, 2)), *slopes))
    other = jnp.sum((batch.x @ variables["params"]["b"]) ** 2, axis=1)
    return {"loss": jnp.sum(z**2, axis=1) + weight * other, "adaptive": weight}, {}


TERMS = {
    "mmd": mean_discrepancy,
    "total correlation": total_correlation,
    "codebook": quantization,
    "batch top-k": selection,
    "adaptive weight": adversarial,
}


def gradients(loss, mode, devices):
    """Gradients, metrics and updates of a loss for a batch of 16 examples."""
    size = 16
    rng = np.random.default_rng(0)
    x = rng.normal(size=(size, 5)).astype(np.float32)
    params = {name: 0.5 * rng.normal(size=(5, 3)).astype(np.float32) for name in ("a", "b")}
    book = {"codes": jnp.asarray(rng.normal(size=(6, 3)), jnp.float32), "use": jnp.linspace(0, 2, 6)}

    def make(per_device, layout):
        def one(params, x, key):
            rows = per_device(jnp.arange(size))
            batch = Batch(x[rows], rows, jnp.ones(rows.shape), jnp.int32(0), layout=layout)
            return gradient(lambda params, batch: loss({"params": params, "codebook": book}, batch, key), params, batch)

        return one

    how = plan(mode, size, 1, jax.devices()[:devices])
    assert how.devices == devices
    assert how.layout.axis == ("data" if mode == "pmap" else None)
    return jax.device_get(compile(make, how, (False, False, False))(params, x, jax.random.key(1)))


def terms():
    """Differences of the gradients, metrics and updates of each term from those on one device without a mapped axis."""
    rows = {}
    for name, loss in TERMS.items():
        here = gradients(loss, "auto", 1)
        assert np.linalg.norm(here[0]["a"]) > 0.1
        for mode, devices in (("pmap", 2), ("pmap", 8), ("jit", 8)):
            there = gradients(loss, mode, devices)
            rows[f"{name}, {mode} {devices}"] = [
                difference(a, b) if jax.tree.leaves(b) else 0.0 for a, b in zip(there, here, strict=True)
            ]
    return rows


def write(path, names):
    """Measure these experiments again, each in its own process, and update the table."""
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
    elif first == "terms":
        print(json.dumps(terms()))
    else:
        if first != "toy" and more[0] != "bits":
            plain_descent(RATES.get(first, 1e-3))
        print(json.dumps(table(first, more[0], json.loads(more[1]))))
