"""How often the latents of a sparse autoencoder fire, and the examples in which each is largest."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from jaxae.data import Dataset, slices, spread
from jaxae.data.activations import Activations
from jaxae.data.dataset import VALUES
from jaxae.training.trained import Trained

LIMIT = 100_000  # examples
WORK = 2e11  # multiplications of the encoder for all these examples, unless that is fewer than `FEWEST` examples
FEWEST = 2_000

Part = tuple[Num[np.ndarray, "m *D"], Int[np.ndarray, " g"], Int[np.ndarray, " g"]]


class Survey(NamedTuple):
    """Statistics of n latents over N examples in groups (sequences of a text). A latent fires if its code is not 0.

    largest: the K largest group maxima of each latent, in descending order; groups: the groups that they come from.
    Both are 0 where a latent fires in fewer than K groups.
    """

    fired: Int[np.ndarray, " n"]  # number of examples in which each latent fires
    total: Float[np.ndarray, " n"]  # sum of its values
    active: Int[np.ndarray, " N"]  # number of latents that fire in each example
    largest: Float[np.ndarray, "K n"]
    groups: Int[np.ndarray, "K n"]

    @property
    def frequency(self) -> Float[np.ndarray, " n"]:
        """Fraction of the examples in which each latent fires."""
        return self.fired / len(self.active)

    @property
    def mean(self) -> Float[np.ndarray, " n"]:
        """Mean value of each latent where it fires; 0 if it never does."""
        return self.total / np.maximum(self.fired, 1)


def of_test(model: Trained, data: Dataset, limit: int = LIMIT, top: int = 1, *, values: int = VALUES) -> Survey:
    """Statistics over at most `limit` test examples, evenly spaced, each of which is a group.

    model, data: in model units. values: how many numbers of codes are held at once.
    """
    (latents,) = model.code
    places = spread(len(data.test.x), _affordable(model, limit))

    def parts() -> Iterator[Part]:
        for part in slices(len(places), max(latents, prod(data.shape)), values):
            yield np.asarray(data.test.x[places[part]]), np.arange(len(places[part])), places[part]

    return survey(model, parts(), latents, top)


def of_text(
    model: Trained, data: Dataset, text: Activations, limit: int = LIMIT, top: int = 1, *, values: int = VALUES
) -> Survey:
    """Statistics over about `limit` tokens of complete sequences, evenly spaced; each sequence is a group.

    model, data: in model units. text: in the units of the data. values: how many numbers of codes are held at once,
    unless a single sequence has more.
    """
    (latents,), starts = model.code, sequences(text)
    count = len(starts) - 1
    chosen = spread(count, max(1, count * _affordable(model, limit) // len(text.tokens)))
    blocks = np.cumsum(starts[chosen + 1] - starts[chosen]) // max(1, values // latents)

    def parts() -> Iterator[Part]:
        for part in np.split(chosen, np.flatnonzero(np.diff(blocks)) + 1):
            tokens = [np.arange(starts[s], starts[s + 1]) for s in part]
            first = np.cumsum([0, *map(len, tokens[:-1])])
            yield rows(text, np.concatenate(tokens)), first, part

    return survey(replace(model, scale=data.scale), parts(), latents, top)


def sequences(text: Activations) -> Int[np.ndarray, " S1"]:
    """The index of the first token of each sequence, followed by the number of tokens."""
    new = np.flatnonzero(text.positions[1:] <= text.positions[:-1]) + 1
    return np.concatenate([[0], new, [len(text.positions)]])


def rows(text: Activations, places: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m D"]:
    """The activations of these tokens, in the units of the data."""
    return np.asarray(text.x[places]).astype(np.float32)


def _affordable(model: Trained, limit: int) -> int:
    """Number of examples that can be encoded with at most `WORK` multiplications."""
    return min(limit, max(FEWEST, int(WORK / (prod(model.code) * prod(model.shape)))))


def survey(model: Trained, parts: Iterable[Part], latents: int, top: int) -> Survey:
    """Statistics of the codes [m, n] of all parts.

    parts: examples, index of the first example of each group, and number of each group; no group spans two parts.
    latents: n. top: K.
    """
    fired, total, active = np.zeros(latents, np.int64), np.zeros(latents), []
    largest, groups = np.zeros((top, latents), np.float32), np.zeros((top, latents), np.int64)
    for x, starts, numbers in parts:
        codes = np.asarray(model.encode(x))
        fires = codes != 0
        fired, total = fired + fires.sum(0), total + codes.sum(0, dtype=np.float64)
        active.append(fires.sum(1))
        new = np.maximum.reduceat(codes, starts, axis=0) if len(starts) < len(codes) else codes
        values = np.concatenate([largest, new])
        places = np.concatenate([groups, np.broadcast_to(numbers[:, None], new.shape)])
        order = np.argsort(-values, axis=0, kind="stable")[:top] if len(values) < 4 * top else _first(values, top)
        largest, groups = np.take_along_axis(values, order, 0), np.take_along_axis(places, order, 0)
    return Survey(fired, total, np.concatenate(active), largest, groups)


def _first(values: Float[np.ndarray, "m n"], top: int) -> Int[np.ndarray, "K n"]:
    """Places of the largest values of each column, in descending order."""
    some = np.argpartition(-values, top, axis=0)[:top]
    order = np.argsort(-np.take_along_axis(values, some, 0), axis=0, kind="stable")
    return np.take_along_axis(some, order, 0)
