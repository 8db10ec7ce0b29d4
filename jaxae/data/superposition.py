"""`superposition`: sparse combinations of a known dictionary, after SynthSAEBench (Chanin & Garriga-Alonso 2026).

More features than dimensions, with Zipfian firing frequencies, correlations, a hierarchy and magnitudes (see
`features`). The examples are endless, generated in the training step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae.core.types import Generator
from jaxae.data import worlds
from jaxae.data.cache import cached_array
from jaxae.data.dataset import Dataset
from jaxae.data.draws import TEST, Draws
from jaxae.data.features import Features, Trees, example, firing
from jaxae.data.generated import generated
from jaxae.errors import InputError

NAME = "superposition"


@dataclass(frozen=True)
class World:
    """The constants of a world: by default the small one, an eighth of SynthSAEBench-16k."""

    features: int = 2048
    dim: int = 128  # dimensions of an example
    frequency: float = 0.4  # firing probability of the first feature, p_1
    least_frequency: float = 5e-4  # of the last one, p_F
    exponent: float = 0.5  # p_i = p_F + (p_1 - p_F) (r_i - r_F) / (r_1 - r_F) with r_i = i^-exponent
    roots: int = 16  # trees of the hierarchy; 0: none
    children: int = 4  # of each node; at most one of them fires
    depth: int = 3  # levels below the roots
    # Whether the probability that a child would fire is divided by its parent's and multiplied by 1 + the expected
    # number of other children that fire, up to 1, so that frequencies stay close to p_i despite the hierarchy.
    compensate: bool = True
    scaled: bool = True  # whether a parent's magnitude multiplies that of its child, in units of the parent's mean
    rank: int = 25  # of the correlations
    correlation: float = 0.1  # standard deviation of the entries of their factors L [F, rank]
    mean: float = 5.0  # magnitude of the first feature
    last_mean: float = 4.0  # of the last one; linear between them
    std: float = 0.5  # the standard deviations of magnitudes are |N(std, std_spread^2)|
    std_spread: float = 0.5
    steps: int = 100  # of gradient descent towards an orthogonal dictionary
    lr: float = 3e-4
    bias: float = 0.5  # norm of the mean vector b
    seed: int = 42  # of all constants
    train: int = 1_000_000  # examples in an epoch
    test: int = 100_000  # examples of the test split
    shared: bool = False  # whether all seeds of a run see the same examples, those of the world's seed


WORLDS = {"eighth": World(), "16k": World(features=16_384, dim=768, roots=128)}


def superposition(name: str = "eighth", **constants: Any) -> Dataset:
    """Examples [dim] of a world, with its dictionary and the features that fire in each test example.

    name: `eighth` (2,048 features in 128 dimensions, for 512 latents) or `16k` (SynthSAEBench-16k: 16,384 in 768, for
    4,096). constants: fields of `World` that differ, such as `superposition(features=64, dim=16, roots=4)`.
    The examples are in their own units, not standardized. InputError for unknown names and impossible constants.
    """
    if name not in WORLDS:
        raise InputError(f"data={NAME}/{name} is unknown; use {' or '.join(f'{NAME}/{known}' for known in WORLDS)}")
    return _dataset(worlds.changed(WORLDS[name], constants, NAME))


def load(name: str) -> Dataset:
    """The data set of this name: `superposition`, `superposition/16k`, `superposition/eighth,dim=64,seed=1`.

    InputError as in `superposition`, and for a value of another type.
    """
    variant, constants = worlds.constants_of(name, World)
    return superposition(variant or "eighth", **constants)


def _dataset(world: World) -> Dataset:
    _require_valid(world)
    constants = arrays(world)
    draw, fires = _functions(trees(world))
    found = generated(
        draw,
        (world.dim,),
        train=world.train,
        test=world.test,
        arrays=constants,
        seed=world.seed if world.shared else None,
    )
    truth = Draws(Generator(constants, fires), (world.test, world.features), np.dtype(bool), TEST)
    return found._replace(dictionary=constants.dictionary, test=found.test._replace(firing=truth))


@cache
def _functions(hierarchy: Trees) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Functions (key, constants) of an example, and of the features that fire in it, compiled once per hierarchy."""
    return partial(example, trees=hierarchy), partial(firing, trees=hierarchy)


def _require_valid(world: World) -> None:
    least = {
        "features": 1,
        "dim": 1,
        "children": 1,
        "rank": 1,
        "train": 1,
        "test": 1,
        "seed": 0,
        "roots": 0,
        "depth": 0,
    }
    least |= {"steps": 0, "lr": 0, "bias": 0, "std_spread": 0, "correlation": 0}
    worlds.require_least(world, least, NAME)
    if not 0 < world.least_frequency <= world.frequency <= 1:
        raise InputError(
            f"data={NAME}: least_frequency={world.least_frequency} and frequency={world.frequency} must be "
            "probabilities above 0, in ascending order"
        )
    if min(world.mean, world.last_mean, world.exponent) <= 0:
        raise InputError(f"data={NAME}: mean, last_mean and exponent must be above 0")


def trees(world: World) -> Trees:
    """The hierarchy: complete trees, as far as there are features."""
    roots = min(world.roots, world.features)
    nodes = roots * sum(world.children**level for level in range(world.depth + 1))
    return Trees(roots, world.children, world.depth, min(nodes, world.features), world.scaled)


def frequencies(world: World) -> Float[np.ndarray, " F"]:
    """The firing probabilities p_i that the features would have without hierarchy."""
    if world.features == 1:
        return np.array([world.frequency])
    r = np.arange(1, world.features + 1) ** -world.exponent
    return world.least_frequency + (world.frequency - world.least_frequency) * (r - r[-1]) / (r[0] - r[-1])


def compensated(p: Float[np.ndarray, " F"], hierarchy: Trees) -> Float[np.ndarray, " F"]:
    """Firing probabilities given that the parent fires, before siblings compete, for frequencies of about p."""
    parent = hierarchy.parent(len(p))
    child = np.flatnonzero(parent >= 0)
    siblings = np.bincount(parent[child], p[child], len(p))[parent[child]] - p[child]
    found = p.copy()
    found[child] *= (1 + siblings / p[parent[child]]) / p[parent[child]]
    return np.minimum(found, 1)


def arrays(world: World) -> Features:
    """The constants of all features, a function of the world's fields alone."""
    from scipy.special import ndtr, ndtri

    rng = np.random.default_rng(world.seed)
    shape, hierarchy, p = (world.features, world.dim), trees(world), frequencies(world)
    start = rng.normal(size=shape).astype(np.float32)  # single precision, since a large world takes long
    of_dictionary = f"orthogonalized {shape}, {world.steps} steps at {world.lr!r}, seed {world.seed}"
    dictionary = cached_array(of_dictionary, lambda: orthogonalized(start, world.steps, world.lr))
    bias = rng.normal(size=world.dim)
    factor = world.correlation * rng.normal(size=(world.features, world.rank))
    size = np.linalg.norm(factor, axis=1, keepdims=True)
    factor *= np.minimum(1, np.sqrt(0.99) / np.maximum(size, 1e-12))  # at least 0.01 of the variance is not shared
    own = np.sqrt(1 - np.sum(factor**2, axis=1))
    threshold = -ndtri(compensated(p, hierarchy) if world.compensate else p)
    mean = np.linspace(world.mean, world.last_mean, world.features)
    std = np.abs(world.std + world.std_spread * rng.normal(size=world.features))
    positive = ndtr(mean / np.maximum(std, 1e-12))
    found = Features(
        dictionary,
        world.bias * bias / np.linalg.norm(bias),
        factor / own[:, None],
        threshold / own,
        mean,
        std,
        positive,
    )
    return Features(*(part.astype(np.float32) for part in found))


def orthogonalized(d: Float[np.ndarray, "F D"], steps: int, lr: float) -> Float[np.ndarray, "F D"]:
    """Unit vectors after `steps` of Adam (Kingma & Ba 2015) from d towards an orthogonal dictionary.

    The loss is sum over i != j of (d_i . d_j)^2 + F sum over i of (|d_i|^2 - 1)^2. Its gradient needs no F x F matrix.
    """
    d = d / np.linalg.norm(d, axis=1, keepdims=True)
    mean, square = np.zeros_like(d), np.zeros_like(d)
    for step in range(1, steps + 1):
        slope = gradient(d)
        mean += 0.1 * (slope - mean)
        square += 0.001 * (slope**2 - square)
        d -= (lr / (1 - 0.9**step)) * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def gradient(d: Float[np.ndarray, "F D"]) -> Float[np.ndarray, "F D"]:
    """The gradient of the loss of `orthogonalized`."""
    size = np.sum(d**2, axis=1, keepdims=True)
    return 4 * (d @ (d.T @ d) - size * d + len(d) * (size - 1) * d)
