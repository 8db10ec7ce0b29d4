"""Sprites with known factors of variation, after dSprites (Matthey, Higgins, Hassabis & Lerchner 2017).

White shapes on black. The factors are independent and uniform, and counted from 0:

    0 shape      3   square, ellipse, heart, of equal area
    1 scale      6   0.5, 0.6, ..., 1, a factor of lengths
    2 rotation  40   anticlockwise, in steps of 9 degrees
    3 x         32   from left to right
    4 y         32   from top to bottom

A square is symmetric under a quarter turn, an ellipse under a half turn, a heart only under a full turn. For two of
the three shapes the image does not determine the rotation, so its metrics stay below their maximum.
"""

from functools import cache, partial
from math import pi, sqrt

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from jaxae.data.dataset import Split
from jaxae.data.splits import RawDataset
from jaxae.errors import InputError

CLASSES = ("square", "ellipse", "heart")
COUNTS = (3, 6, 40, 32, 32)  # values of each factor
SIZES = {"sprites": 32, "sprites/64": 64}
SEED = 0
CHUNK = 10_000  # images rendered at a time
GRID = 64  # pixels of the full resolution, at which x and y are shifts by one; smaller images average blocks
WINDOW = GRID - COUNTS[3] + 1  # pixels of a rendered sprite, inside the image at every position
SAMPLES = 4  # sample points per pixel along each axis


def load(name: str = "sprites") -> RawDataset:
    """60,000 and 10,000 sprites of 32x32 pixels, `sprites/64` of 64x64; InputError for another name.

    The splits are sampled independently from the 737,280 possible sprites: a twelfth of the test sprites are also in
    the training split.
    """
    if name not in SIZES:
        names = " or ".join(f"{known} ({size}x{size} pixels)" for known, size in SIZES.items())
        raise InputError(f"data={name} is unknown; use {names}, or ./{name} if it is a path")
    for_train, for_test = jax.random.split(jax.random.key(SEED))
    size = SIZES[name]
    return RawDataset({"train": _split(for_train, 60_000, size), "test": _split(for_test, 10_000, size)}, CLASSES)


def _split(key: Key[Array, ""], count: int, size: int) -> Split:
    factors = np.asarray(sample(key, count))
    return Split(images(factors, size), factors[:, 0], factors=factors)


def sample(key: Key[Array, ""], count: int) -> Int[Array, "N 5"]:
    """Sample factors, independent and uniform."""
    return jax.random.randint(key, (count, len(COUNTS)), 0, jnp.array(COUNTS)[None])


def images(factors: Int[np.ndarray, "N 5"], size: int = 32) -> UInt8[np.ndarray, "N {size} {size} 1"]:
    """The images of these factors, a function of them alone: the same bits on every device.

    size: pixels, a divisor of 64. ValueError for another one, and for factors out of range.
    """
    if size < 1 or GRID % size:
        raise ValueError(f"size={size} must be a divisor of {GRID}")
    if (factors < 0).any() or (factors >= COUNTS).any():
        raise ValueError(f"factors out of range: they must be from 0 to below {COUNTS}")
    chunks = [factors[i : i + CHUNK] for i in range(0, len(factors), CHUNK)]
    return np.concatenate([np.asarray(_draw(_covered(), chunk, size)) for chunk in chunks])


@partial(jax.jit, static_argnames="size")
def _draw(covered: UInt8[Array, "3 6 40 W W"], factors: Int[Array, "N 5"], size: int) -> UInt8[Array, "N S S 1"]:
    """Render sprites at their positions, as grey levels."""

    def place(one: Int[Array, " 5"]) -> UInt8[Array, "G G"]:
        shape, scale, rotation, x, y = one
        empty = jnp.zeros((GRID, GRID), jnp.uint8)
        return jax.lax.dynamic_update_slice(empty, covered[shape, scale, rotation], (y, x))

    block = GRID // size
    blocks = jax.vmap(place)(factors).reshape(-1, size, block, size, block)
    count, points = blocks.sum((2, 4), dtype=jnp.int32), (SAMPLES * block) ** 2
    return ((2 * 255 * count + points) // (2 * points)).astype(jnp.uint8)[..., None]


@cache
def _covered() -> UInt8[np.ndarray, "3 6 40 W W"]:
    """Sample points inside the sprite per pixel, for every shape, scale and rotation about its centroid.

    Computed in double precision; all further arithmetic is exact, on integers.
    """
    at = (np.arange(WINDOW * SAMPLES) + 0.5) / SAMPLES - WINDOW / 2
    right, up = at[None], -at[:, None]
    turn = 2 * pi * np.arange(COUNTS[2])[:, None, None] / COUNTS[2]
    scale = np.linspace(0.5, 1, COUNTS[1])[:, None, None, None]
    u, v = (np.cos(turn) * right + np.sin(turn) * up) / scale, (np.cos(turn) * up - np.sin(turn) * right) / scale
    inside = np.stack([_square(u, v), _ellipse(u, v), _heart(u, v)])
    pixels = inside.reshape(*COUNTS[:3], WINDOW, SAMPLES, WINDOW, SAMPLES)
    return pixels.sum((-3, -1), dtype=np.uint8)


LONG, SHORT = 16.0, 8.0  # pixels: half axes of the ellipse of scale 1, the longest sprite, which fits into the window
AREA = pi * LONG * SHORT


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(abs(u), abs(v)) <= sqrt(AREA) / 2


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (u / LONG) ** 2 + (v / SHORT) ** 2 <= 1


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square of side 2a with a corner below, and discs of radius a centred on the midpoints of its upper sides."""
    a = sqrt(AREA / (4 + pi))
    centroid = a * (pi / 2 + 2 / 3) / (4 + pi)  # coordinate along both sides, relative to the centre of the square
    s, t = (v + u) / sqrt(2) + centroid, (v - u) / sqrt(2) + centroid
    return (np.maximum(abs(s), abs(t)) <= a) | ((s - a) ** 2 + t**2 <= a**2) | (s**2 + (t - a) ** 2 <= a**2)
