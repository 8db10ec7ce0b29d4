"""Peak rate of the machine: operations per second of a large matrix product, bytes per second of a long array."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns

SIDE, LENGTH, TIMES = 2048, 1 << 26, 4


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:  # noqa: ARG001
    kind = jnp.bfloat16 if work["precision"] == "mixed" else jnp.float32
    side = SIDE if work["device"] == "cpu" else 4 * SIDE
    square, long = jnp.ones((side, side), kind), jnp.ones(LENGTH)
    multiply = jax.jit(lambda a: jnp.dot(a, a, preferred_element_type=jnp.float32))
    add = jax.jit(lambda a: jax.lax.fori_loop(0, TIMES, lambda _, a: a + 1, a), donate_argnums=0)

    def steps(count: int) -> float:
        """Maximum over five repetitions: operations per second for count = 1, bytes per second otherwise."""
        nonlocal long
        rates = []
        for _ in range(5):
            began = time.perf_counter()
            if count == 1:
                multiply(square).block_until_ready()
            else:
                long = add(long).block_until_ready()
            rates.append((2 * side**3 if count == 1 else 8 * TIMES * LENGTH) / (time.perf_counter() - began))
        return max(rates)

    return steps


if __name__ == "__main__":
    turns.serve(build)
