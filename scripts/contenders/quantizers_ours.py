"""jaxae: one of its quantizers on batches of vectors. Argument and output: see `quantizers.py`."""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.core.batch import Batch
from jaxae.variants import quantize


def main() -> None:
    """Run 200 steps, and evaluate."""
    job = json.loads(sys.argv[1])
    x, rng = np.load(job["vectors"]), np.random.default_rng(job["seed"])
    quantizer = quantize.named(quantize.Options(latent=x.shape[1], **job["options"]))
    key = jax.random.key(job["seed"])
    variables = jax.jit(quantizer.init)(key, x[:2, None])
    params, extra = variables.pop("params", {}), variables
    ones, places = jnp.ones(job["batch"]), jnp.arange(job["batch"])

    @jax.jit
    def step(params, extra, z, number):  # type: ignore[no-untyped-def]
        def loss(params, z):  # type: ignore[no-untyped-def]
            batch = Batch(z, places, ones, number)
            own = jax.random.fold_in(key, number)
            found, updates = quantizer.apply({"params": params, **extra}, z, batch, own, mutable=[*extra])
            return jnp.mean(jnp.sum(found.codes**2, axis=(1, 2)) + found.terms["loss"]), updates

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, z)

    seconds = []
    for number in range(job["steps"]):
        z = x[rng.integers(0, len(x), job["batch"]), None]
        began = time.perf_counter()
        (_, extra), _ = jax.block_until_ready(step(params, extra, z, number))
        seconds.append(time.perf_counter() - began)
    apply = jax.jit(lambda z: quantizer.apply({"params": params, **extra}, z))
    parts = [apply(x[first : first + job["batch"], None]) for first in range(0, len(x), job["batch"])]
    error = np.concatenate([one.terms["quantization"] for one in parts]).mean(dtype=np.float64)
    indices = np.concatenate([one.indices for one in parts]).reshape(len(x), -1)
    print(json.dumps({"seconds": seconds, "error": float(error), "indices": indices[:, 0].tolist()}))


if __name__ == "__main__":
    main()
