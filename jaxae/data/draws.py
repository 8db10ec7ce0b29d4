"""Endless examples, generated from keys."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import numpy as np
from jaxtyping import Key, Shaped

from jaxae.core.types import Generator
from jaxae.data.rows import indices

# Keys of the examples that are generated outside training; those of training are derived from its seeds.
PREVIEW, TEST = 1 << 31, (1 << 31) + 1
VALUES = 1 << 22  # numbers generated at once outside training


@dataclass(frozen=True, eq=False)
class Draws:
    """Examples of a generator, with the part of the array interface that a training split uses.

    `draws[places]` generates examples as a preview; training generates others in each step, from keys of its seeds.
    """

    generator: Generator
    shape: tuple[int, ...]  # [N, *D], N the number of examples in an epoch
    dtype: np.dtype[Any]
    purpose: int = PREVIEW
    seed: int | None = None  # of training, shared by all seeds of a run; None: each has its own

    def __len__(self) -> int:
        """Number of examples in an epoch."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, places: Any) -> np.ndarray:
        """Generate the examples selected by an index array, a slice or a mask, some of them at a time."""
        numbers = indices(places, len(self)).astype(np.uint32)
        key = jax.random.fold_in(jax.random.key(0), self.purpose)
        size = max(1, VALUES // max(1, prod(self.shape[1:])))
        parts = [numbers[first : first + size] for first in range(0, max(len(numbers), 1), size)]
        found = [np.asarray(_drawn(self.generator.draw, key, self.generator.arrays, part)) for part in parts]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def identity(self) -> bytes:
        """A hash of the computation of an example, with its constants and arrays."""
        key = jax.eval_shape(lambda: jax.random.key(0))
        program = jax.make_jaxpr(self.generator.draw)(key, self.generator.arrays)
        seed = "" if self.seed is None else self.seed
        digest = hashlib.sha256(without_addresses(f"{self.shape}{program}{seed}").encode())
        for array in (*program.consts, *jax.tree.leaves(self.generator.arrays)):
            digest.update(np.asarray(array).tobytes())
        return digest.digest()


def without_addresses(jaxpr: str) -> str:
    """The text of a jaxpr without addresses of functions, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", jaxpr)


@partial(jax.jit, static_argnums=0)
def _drawn(
    draw: Callable[..., jax.Array], key: Key[jax.Array, ""], arrays: Any, numbers: jax.Array
) -> Shaped[jax.Array, "n *D"]:
    return Generator(arrays, draw).examples(key, numbers)
