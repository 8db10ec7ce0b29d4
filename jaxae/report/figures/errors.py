"""Reconstruction errors of test examples, in model units."""

from dataclasses import replace
from math import prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import Dataset, slices, within
from jaxae.report.figures.base import encoded, in_units
from jaxae.training.examples import own_conditions
from jaxae.training.trained import Trained

LIMIT = 10_000  # test examples


class Extremes(NamedTuple):
    """Test examples with the smallest and with the largest errors, each in ascending order."""

    places: Int[np.ndarray, " K"]
    errors: Float[np.ndarray, " K"]  # mean squared error over the observed entries, in squared model units
    codes: Float[np.ndarray, "K *code"]  # with the noise or mask of training, if any
    compared: int  # number of test examples


def extremes(model: Trained, data: Dataset, best: int, worst: int) -> Extremes:
    """The test examples with the `best` smallest and the `worst` largest errors, among the first `LIMIT`."""
    model, data = replace(model, scale=None), data._replace(scale=None)
    count = min(len(data.test.x), LIMIT)
    places = np.arange(count)
    codes = encoded(model, data.test, places, corrupted=True)

    def errors_of(part: slice) -> Float[np.ndarray, " n"]:
        given = own_conditions(model, data, data.test, places[part])
        return squared_errors(data, places[part], np.asarray(model.decode(codes[part], **given)))

    errors = np.concatenate([errors_of(part) for part in slices(count, prod(data.shape))])
    order = np.argsort(errors, kind="stable")
    chosen = np.concatenate([order[:best], order[count - worst :]])
    return Extremes(chosen, errors[chosen], codes[chosen], count)


def standardized(data: Dataset) -> bool:
    """Whether model units are standard deviations."""
    return data.real and data.scale is not None


def note(data: Dataset) -> str:
    """The unit of the errors, for a title."""
    return f"(squared error{' of standardized values' * standardized(data)})"


def squared_errors(data: Dataset, places: np.ndarray, y: Float[np.ndarray, "N *D"]) -> Float[np.ndarray, " N"]:
    """Squared error of each of these test examples, decoded as y.

    The mean over its observed entries, without padding; 0 for an example without observed entries.
    """
    test = data.test.take(places)
    errors = (in_units(data, test.x) - y) ** 2
    known = np.ones(errors.shape, bool) if test.observed is None else test.observed > 0
    if test.lengths is not None:
        steps = within(np.asarray(test.lengths), errors.shape[1])
        known = known & steps.reshape(*steps.shape, *[1] * (errors.ndim - 2))
    axes = tuple(range(1, errors.ndim))
    means: np.ndarray = (errors * known).sum(axes) / np.maximum(known.sum(axes), 1)
    return means
