"""A data set whose training examples are generated in each step and never stored."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxae.core.types import Generator
from jaxae.data.dataset import Dataset, Kind, Split
from jaxae.data.draws import TEST, Draws
from jaxae.errors import InputError

KINDS: dict[int, Kind] = {1: "table", 2: "series", 3: "image"}  # by the number of axes of an example


def generated(
    draw: Callable[..., jax.Array],
    shape: tuple[int, ...],
    *,
    train: int,
    test: int = 10_000,
    arrays: Any = (),
    seed: int | None = None,
) -> Dataset:
    """Endless training examples, each the result of `draw(key, arrays)`, and a test split generated once.

    draw: a pure JAX function. The training step calls it with a separate key for every example, a function of the seed
    and of the number of the example, step * batch_size + index in the batch. Numbers repeat only after 2**32. The
    examples are the same on any number of devices, and in a run that is resumed.
    shape: of one example: (D,) a row of a table, (T, D) a series, (H, W, C) an image. train: number of examples in an
    epoch. test: number of test examples, the same for all seeds. arrays: any arrays that `draw` needs, as a pytree;
    large ones belong here, not into the closure of `draw`, where they become constants of the compiled program.
    seed: replaces the run's seed for the training examples, so that all seeds of a run share them.

    Examples are in model units: pixels if they are uint8 (divided by 255) or images or series in [0, 1], otherwise real
    numbers, which should have mean 0 and variance 1.

        def draw(key, basis):
            return jax.random.laplace(key, (8,)) @ basis

        data = jaxae.data.generated(draw, (32,), train=100_000, arrays=np.random.default_rng(0).normal(size=(8, 32)))

    InputError for a result of another shape or dtype, and for fewer than one example.
    """
    for name, count in (("train", train), ("test", test)):
        if not (isinstance(count, int) and 1 <= count < 2**31):
            raise InputError(f"{name}={count} must be an integer, at least 1, and below {2**31}")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise InputError(f"seed={seed} must be an integer from 0 to {2**32 - 1}")
    if not isinstance(shape, tuple) or len(shape) not in KINDS or min(shape) < 1:
        raise InputError(f"shape={shape} must be (D,), (T, D) or (H, W, C)")
    arrays = jax.tree.map(np.asarray, arrays)
    try:
        inspect.signature(draw).bind(None, arrays)
    except TypeError:
        raise InputError("draw must take two arguments, a key and the arrays: def draw(key, arrays)") from None
    found = jax.eval_shape(draw, jax.random.key(0), arrays)
    types = (np.float32,) if len(shape) == 1 else (np.uint8, np.float32)
    if getattr(found, "shape", None) != shape or found.dtype not in types:
        got = f"{found.dtype} {found.shape}" if hasattr(found, "shape") else type(found).__name__
        raise InputError(f"draw returns {got}, not {' or '.join(kind.__name__ for kind in types)} {shape}")
    generator, kind = Generator(arrays, draw), KINDS[len(shape)]
    x = Draws(generator, (test, *shape), found.dtype, TEST)[:]
    pixels = kind != "table" and bool(x.min() >= 0 and (x.dtype == np.uint8 or x.max() <= 1))
    if not np.isfinite(x).all():
        raise InputError("draw returns numbers that are not finite; it must return finite ones")
    return Dataset(
        _without_classes(Draws(generator, (train, *shape), found.dtype, seed=seed)),
        _without_classes(x),
        (),
        kind,
        real=not pixels,
        from_bytes=x.dtype == np.uint8,
        notes=("training examples are generated in each step",),
    )


def _without_classes(x: Any) -> Split:
    return Split(x, np.broadcast_to(np.int32(-1), (len(x),)))
