"""jaxae: its scvi on the cells of `counts.py`. Prints -log p of every test cell and the rate; writes the codes.

The argument is a JSON object: see `counts.py`.
"""

import json
import sys
import time
from typing import Any

import cells
import jax
import jax.numpy as jnp
import numpy as np

import jaxae
from jaxae import data
from jaxae.core.conditions import condition
from jaxae.experiments import scvi
from jaxae.training.iterate import iterate
from jaxae.training.trained import Trained

NAMES = {"nb": "negative-binomial", "zinb": "zero-inflated-negative-binomial"}


def main() -> None:
    """Train and evaluate, or time some epochs."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    with np.load(job["cells"], allow_pickle=False) as file:
        of = {name: file[name] for name in file.files}
    found = data.from_arrays(
        of["train"],
        context={"batch": of["train_batch"].astype(str)},
        test=of["test"],
        test_context={"batch": of["test_batch"].astype(str)},
        kind="counts",
    )
    sizes = {"latent": job["latent"], "epochs": job["epochs"], "batch_size": min(job["batch"], len(of["train"]))}
    fields = {**sizes, "likelihood": NAMES[job["likelihood"]], "seed": job["seed"], "kl_warmup": job["kl_warmup"]}
    if job["speed"]:
        print(json.dumps({"cells_per_second": rate(fields, found, job["speed"])}), flush=True)
        return
    began = time.perf_counter()
    model = jaxae.fit("scvi", found, progress=False, **fields)
    seconds = time.perf_counter() - began
    log_weights = [
        log_weights_of(model, found.test.take(np.arange(p.start, p.stop))) for p in cells.parts(len(of["test"]))
    ]
    codes = {name: np.asarray(model.encode(split)) for name, split in (("train", found.train), ("test", found.test))}
    np.savez(job["out"], **codes)
    nats = -cells.log_p(np.concatenate(log_weights))
    print(json.dumps({"nats": nats.tolist(), "seconds": seconds}), flush=True)


def rate(fields: dict[str, Any], found: data.Dataset, epochs: int) -> float:
    """Cells that one seed trains on in a second, the median over epochs; the first epoch is not timed."""
    config = scvi.Config(**{**fields, "epochs": 2 * epochs + 1})
    experiment = scvi.build(config, found.info)
    sizes = {"epochs": config.epochs, "batch_size": config.batch_size}
    steps, times, last, rates = 0.0, 0.0, 0, []
    for now in iterate(experiment, found, **sizes):
        times += now.seconds or 0.0
        steps += (now.step - last) if now.seconds else 0
        last = now.step
        if now.test is not None:
            rates.append(steps * config.batch_size / times if times else 0.0)
            steps = times = 0.0
    return float(np.median([value for value in rates[1:] if value]))


def log_weights_of(model: Trained, split: data.Split) -> np.ndarray:
    """log p(x|z) p(z) / q(z|x) of cells at samples of their codes, by the formulas of `cells`."""
    net: Any = model.experiment.model
    x, c = jnp.asarray(split.x), condition(None, jnp.asarray(split.context), 0)
    q = net.apply(model.variables, x, c, method="posterior")
    eps = np.random.default_rng(int(split.x.sum())).normal(size=(len(x), cells.SAMPLES, q.mean.shape[1]))
    z = q.samples(jnp.asarray(eps, jnp.float32))
    outputs = outputs_of(net, model.variables, z.reshape(-1, z.shape[-1]), jnp.repeat(c, cells.SAMPLES, axis=0))
    parts = np.asarray(outputs, np.float64).reshape(len(x), cells.SAMPLES, -1, split.x.shape[1]).transpose(2, 0, 1, 3)
    factor = split.x.sum(1, dtype=np.float64)[:, None, None] / net.likelihood.total
    logit = parts[1] if len(parts) == 3 else None
    counts = split.x.astype(np.float64)[:, None]
    found = cells.log_mass(counts, factor * np.exp(parts[0]), np.exp(parts[-1]), logit).sum(-1)
    mean, scale, values = (np.asarray(part, np.float64) for part in (q.mean, q.scale, z))
    found += cells.log_normal(values, np.zeros(1), np.ones(1))
    return found - cells.log_normal(values, mean[:, None], scale[:, None])


def outputs_of(net: Any, variables: Any, z: jax.Array, c: jax.Array) -> jax.Array:
    """The parameters of p(x|z)."""
    found: jax.Array = jax.jit(lambda v, z, c: net.apply(v, z, c, method="outputs"))(variables, z, c)
    return found


if __name__ == "__main__":
    main()
