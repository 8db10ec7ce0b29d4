"""Sparse features with a known dictionary: correlated firing, a hierarchy, magnitudes.

An example is x = f D + b. Feature i of F would fire, if it had no parent, where the Gaussian copula
L_i . z + sqrt(1 - |L_i|^2) e_i exceeds Phi^-1(1 - p_i), with z [R] shared by all features and e_i its own. Given z the
features are independent: i fires with probability Phi((L_i . z - Phi^-1(1 - p_i)) / sqrt(1 - |L_i|^2)). Normal numbers
are therefore sampled only for z and for the magnitudes of features that fire.

Features 0 .. roots - 1 are roots of trees, numbered level by level: the children of node k are the next `children`
features from roots + k children on. A child fires only where its parent fires; of siblings that would fire, one is
chosen at random. The features of a tree that fire are thus a chain from its root. Features after the last node of the
trees have neither parent nor children.

The magnitude is the positive part of a normal number, mean_i + std_i n; a feature of magnitude 0 does not fire. That of
a child is multiplied by that of its parent over the parent's mean, if `scaled`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri
from jaxtyping import Array, Bool, Float, Int, Key

LEAST = 2.0**-24  # replaces a uniform number of 0 (one in 2^23), whose magnitude would be infinite
SLOTS = 8  # trees, and features outside of them, that are sampled at a time


class Features(NamedTuple):
    """The constants of all features, as arrays."""

    dictionary: Float[Any, "F D"]
    bias: Float[Any, " D"]
    slope: Float[Any, "F R"]  # L / sqrt(1 - |L|^2)
    threshold: Float[Any, " F"]  # Phi^-1(1 - p) / sqrt(1 - |L|^2)
    mean: Float[Any, " F"]
    std: Float[Any, " F"]
    positive: Float[Any, " F"]  # Phi(mean / std), the probability of a magnitude above 0


class Trees(NamedTuple):
    """The hierarchy."""

    roots: int
    children: int  # of each node
    depth: int  # levels below the roots
    nodes: int  # features in the trees
    scaled: bool = True  # whether a parent's magnitude multiplies that of its child

    def parent(self, features: int) -> Int[np.ndarray, " F"]:
        """The parent of each feature; -1 without one."""
        places = np.arange(features)
        child = (places >= self.roots) & (places < self.nodes)
        return np.where(child, (places - self.roots) // max(self.children, 1), -1)


class Active(NamedTuple):
    """Features of an example, in slots; those of magnitude 0 do not fire."""

    feature: Int[Array, "L S"]
    magnitude: Float[Array, "L S"]


def example(key: Key[Array, ""], features: Features, *, trees: Trees) -> Float[Array, " D"]:
    """An example."""

    def add(x: Float[Array, " D"], active: Active) -> Float[Array, " D"]:
        rows = jnp.asarray(features.dictionary)[active.feature.ravel()]
        return x + jnp.sum(active.magnitude.ravel()[:, None] * rows, axis=0)

    return _folded(add, jnp.asarray(features.bias), key, features, trees)


def magnitudes(key: Key[Array, ""], features: Features, *, trees: Trees) -> Float[Array, " F"]:
    """The magnitudes f of all features in the example with the same key; 0 where one does not fire."""

    def put(f: Float[Array, " F"], active: Active) -> Float[Array, " F"]:
        return f.at[active.feature.ravel()].add(active.magnitude.ravel())

    return _folded(put, jnp.zeros(len(features.mean)), key, features, trees)


def firing(key: Key[Array, ""], features: Features, *, trees: Trees) -> Bool[Array, " F"]:
    """Which features fire in the example with the same key."""
    return magnitudes(key, features, trees=trees) > 0


def _folded(
    add: Callable[[Array, Active], Array], start: Array, key: Key[Array, ""], features: Features, trees: Trees
) -> Array:
    """Fold `add` over the active features, `SLOTS` trees at a time.

    Under vmap the loop runs until every example is complete; the number of active features is not limited.
    """
    for_factors, for_top, for_slots = jax.random.split(key, 3)
    features = jax.tree.map(jnp.asarray, features)
    drive = features.slope @ jax.random.normal(for_factors, features.slope.shape[1:]) - features.threshold
    fires = ndtr(jnp.concatenate([drive[: trees.roots], drive[trees.nodes :]]))
    probability = fires * jnp.concatenate([features.positive[: trees.roots], features.positive[trees.nodes :]])
    rank = jnp.cumsum(jax.random.uniform(for_top, probability.shape) < probability, dtype=jnp.int32)

    def more(carry: tuple[Array, Array]) -> Array:
        return carry[0] * SLOTS < rank[-1]

    def next_slots(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        number, total = carry
        wanted = number * SLOTS + jnp.arange(SLOTS)
        place = jnp.searchsorted(rank, wanted, side="right", method="scan_unrolled").astype(jnp.int32)
        index = jnp.where(place < trees.roots, place, place - trees.roots + trees.nodes)
        active = _chains(jax.random.fold_in(for_slots, number), index, place < len(rank), drive, features, trees)
        return number + 1, add(total, active)

    found: Array = jax.lax.while_loop(more, next_slots, (jnp.int32(0), start))[1]
    return found


def _chains(
    key: Key[Array, ""],
    index: Int[Array, " S"],
    alive: Bool[Array, " S"],
    drive: Float[Array, " F"],
    features: Features,
    trees: Trees,
) -> Active:
    """The active features of the trees with these roots; an index outside of the trees is a single feature.

    drive: Phi^-1 of the probability that a feature would fire, given the shared factors.
    """
    levels = trees.depth + 1
    sampled = jax.random.uniform(key, (levels * (trees.children + 1) * len(index),), minval=np.finfo(np.float32).tiny)
    uniform = sampled.reshape(levels, trees.children + 1, len(index))
    parent = jnp.where(alive, index, 0)
    value = jnp.where(alive, _magnitude(uniform[0, -1], parent, features), 0)
    first = Active(parent[None], value[None])

    def child_of(carry: Active, uniform: Array) -> tuple[Active, Active]:
        child = trees.roots + trees.children * carry.feature[None] + jnp.arange(trees.children)[:, None]
        exists = (carry.magnitude > 0)[None] & (child < trees.nodes)
        child = jnp.where(exists, child, 0)
        probability = ndtr(drive[child]) * features.positive[child]
        # Among the children that would fire, uniform / probability is uniform, so that the minimum is a random choice.
        order = jnp.where(exists & (uniform[:-1] < probability), uniform[:-1] / probability, jnp.inf)
        least = jnp.min(order, axis=0)
        index = jnp.max(jnp.where(order == least[None], child, 0), axis=0)
        value = _magnitude(uniform[-1], index, features)
        if trees.scaled:
            value *= carry.magnitude / features.mean[carry.feature]
        found = Active(index, jnp.where(least < jnp.inf, value, 0))
        return found, found

    rest = jax.lax.scan(child_of, Active(parent, value), uniform[1:])[1]
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), first, rest)


def _magnitude(uniform: Float[Array, " S"], index: Int[Array, " S"], features: Features) -> Float[Array, " S"]:
    """A normal number above 0, by inversion of its survival function; at most about 5.3 deviations above its mean."""
    mean, std = features.mean[index], features.std[index]
    survival = jnp.maximum(uniform, LEAST) * features.positive[index]
    return jnp.where(std > 0, jnp.maximum(mean - std * ndtri(survival), 0), mean)
