"""The class and the covariates of a conditional model on the command line, for examples and for samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np

from jaxae.data import Found
from jaxae.data.classes import indices
from jaxae.data.covariates import IDENTITY, categories
from jaxae.errors import InputError
from jaxae.run import command_line
from jaxae.training.trained import Trained

MAX_ROWS = 100  # of samples, one for each condition


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Flags of commands that apply a model."""

    y: str = ""
    """Class of all examples, for a conditional model. (default: those of the data; for samples every class)"""
    context: tuple[str, ...] = ()
    """Covariates of all examples, NAME=VALUE ..., for a conditional model. Without it those of the data; for samples
    the training mean of numbers, and every category."""

    @property
    def covariates(self) -> dict[str, str]:
        """--context by name. InputError for another form."""
        if wrong := [text for text in self.context if "=" not in text]:
            raise InputError(f"--context {wrong[0]}; give NAME=VALUE, as in --context age=40 colour=red")
        return dict(text.split("=", 1) for text in self.context)


def require_effect(options: Conditions, model: Trained) -> None:
    """Raise InputError for a class or a covariate that the model does not have."""
    known = model.experiment.condition(model.conditions)
    if options.y and not known.classes:
        raise InputError(f"--y {options.y} has no effect: the model does not depend on a class; omit it")
    if options.y:
        with command_line.flags_of(options):
            indices(options.y, known.classes, 1)
    names = categories(known.covariates)
    if unknown := [name for name in options.covariates if name not in names]:
        has = f"one of {', '.join(names)}" if names else "it depends on no covariates; omit it"
        raise InputError(f"--context {unknown[0]} is not a covariate of the model: {has}")


def of_data(options: Conditions, model: Trained, found: Found, where: str) -> dict[str, Any]:
    """`y` and `context` for the examples, by default their own. InputError if they lack one."""
    if not model.experiment.conditional:
        return {}
    given: dict[str, Any] = {}
    known, count = model.experiment.condition(model.conditions), len(found.split.x)
    if known.classes:
        given["y"] = np.full(count, options.y) if options.y else found.labels
        if given["y"] is None and model.experiment.classes == "given":
            raise InputError(f"{where} has no classes, on which the model depends; give --y CLASS")
    if names := categories(known.covariates):
        of_all = {name: np.full(count, value) for name, value in options.covariates.items()}
        context = {**found.columns, **of_all}
        if lacking := [name for name in names if name not in context]:
            raise InputError(f"{where} has no covariate {lacking[0]}; give --context {lacking[0]}=VALUE")
        given["context"] = {name: context[name] for name in names}
    return given


class Rows(NamedTuple):
    """Conditions of samples: each condition is repeated for `each` consecutive samples."""

    given: dict[str, Any]  # `y` and `context` of every sample
    each: int
    rows: int
    about: str


def of_samples(options: Conditions, model: Trained, n: int) -> Rows:
    """At least n samples, the same number under each condition. InputError for more than `MAX_ROWS` conditions.

    All combinations of the classes and of the categories that are not given; numbers are the training mean.
    """
    known = model.experiment.condition(model.conditions)
    if not model.experiment.conditional:
        return Rows({}, n, 1, "")
    names = categories(known.covariates)
    offset = (known.scale or IDENTITY).offset
    means = {name: offset[known.covariates.index(name)] for name, words in names.items() if words is None}
    values: dict[str, Sequence[Any]] = {"": [options.y] if options.y else known.classes or [""]}
    for name, words in names.items():
        given = options.covariates.get(name)
        values[name] = [given] if given is not None else [means[name]] if words is None else words or []
    count = prod(map(len, values.values()))
    if count > MAX_ROWS:
        raise InputError(f"{count:,} combinations of classes and categories; select some with --y and --context")
    each = ceil(n / count)
    columns = [np.repeat(np.array(column), each) for column in zip(*product(*values.values()), strict=True)]
    y, *covariates = columns
    found: dict[str, Any] = {"y": y} if known.classes else {}
    if names:
        found["context"] = dict(zip(names, covariates, strict=True))
    mean = [f"{name}={value:.4g}" for name, value in means.items() if name not in options.covariates]
    about = f", {each:,} for each of {count:,} conditions" if count > 1 else ""
    return Rows(found, each, count, about + (f", at the mean {', '.join(mean)}" if mean else ""))
