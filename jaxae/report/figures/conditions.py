"""Conditions in figures of conditional models: that of each example, of the first one, and a few for a grid."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import Dataset, spread
from jaxae.data.covariates import categories
from jaxae.report.figures.base import encoded, ten
from jaxae.training.examples import own_conditions, part_of
from jaxae.training.trained import Trained

LIMIT = 10  # conditions of a grid
QUANTILES = (0.1, 0.5, 0.9)  # values of a covariate in a grid


def own(model: Trained, data: Dataset, places: Int[np.ndarray, " N"]) -> dict[str, Any]:
    """`y` and `context` of these test examples; empty for an unconditional model."""
    return own_conditions(model, data, data.test, places)


def at_first(model: Trained, data: Dataset, title: str) -> tuple[Trained, str]:
    """The model with the condition of the first test example, and the title followed by that condition.

    For an unconditional model both are unchanged.
    """
    one = part_of(own(model, data, np.arange(1)), 0)
    return (model.under(**one), f"{title}, {described(one)}") if one else (model, title)


def described(one: dict[str, Any]) -> str:
    """A condition in words."""
    parts = [f"class {_short(one['y'])}"] if "y" in one else []
    return ", ".join([*parts, *(f"{name[:20]} = {_short(value)}" for name, value in one.get("context", {}).items())])


class Grid(NamedTuple):
    """Conditions for the rows or columns of a figure."""

    labels: list[str]
    given: dict[str, Any]  # `y` and `context` of each


def grid(model: Trained, data: Dataset) -> Grid:
    """Up to `LIMIT` conditions: every class, with the covariates of the first test example of the class.

    Without classes: the categories, or three quantiles, of each covariate, with the other covariates of the first
    example.
    """
    every = own(model, data, np.arange(len(data.test.x)))
    if "y" in every and (every["y"] is not None):
        classes = np.unique(data.test.y[data.test.y >= 0])
        classes = classes[spread(len(classes), LIMIT)]
        places = np.array([np.argmax(data.test.y == number) for number in classes])
        return Grid([_short(data.classes[number]) for number in classes], part_of(every, places))
    labels: list[str] = []
    rows: list[dict[str, Any]] = []
    for name, words in categories(data.covariates).items():
        values = np.quantile(every["context"][name], QUANTILES) if words is None else np.array(words)
        for value in values[spread(len(values), LIMIT)]:
            rows.append({**part_of(every, 0)["context"], name: value})
            labels.append(f"{name[:20]} = {_short(value)}")
    context = {name: np.array([row[name] for row in rows[:LIMIT]]) for name in rows[0]}
    return Grid(labels[:LIMIT], {"context": context})


class Counterfactuals(NamedTuple):
    """Test examples, and each of their codes decoded under the conditions of a grid."""

    places: Int[np.ndarray, " R"]
    labels: list[str]  # of the conditions
    decoded: Float[np.ndarray, "R C *D"]


def counterfactuals(model: Trained, data: Dataset, rows: int) -> Counterfactuals:
    """Codes of up to this many test examples, under their own conditions, decoded under every one of `grid`."""
    places = ten(data)
    places = places[spread(len(places), rows)]
    labels, given = grid(model, data)
    z = np.repeat(encoded(model, data.test, places), len(labels), axis=0)
    columns = np.tile(np.arange(len(labels)), len(places))
    decoded = np.asarray(model.decode(z, **part_of(given, columns)))
    return Counterfactuals(places, labels, decoded.reshape(len(places), len(labels), *model.shape))


def repeated(found: Grid, times: int) -> dict[str, Any]:
    """Each condition repeated this many times."""
    return part_of(found.given, np.repeat(np.arange(len(found.labels)), times))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float | np.number) else str(value)[:20]
