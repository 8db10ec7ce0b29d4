"""Apply a trained model to new data: code shared by `encode`, `reconstruct`, `sample` and `score`."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import tyro
from jaxtyping import Int, Shaped
from numpy.typing import ArrayLike
from tyro.conf import Positional

from jaxae import data, run
from jaxae.commands import _output
from jaxae.commands._arguments import OneRun, module_of
from jaxae.commands._conditions import Conditions, of_data, require_effect
from jaxae.errors import InputError
from jaxae.run import directory
from jaxae.run.read import options_of
from jaxae.training.examples import chunk_of, part_of
from jaxae.training.trained import Trained

Apply = Callable[..., ArrayLike]  # (examples, lengths, y=, context=) -> results, [*S, n, ...]


@dataclass(frozen=True, kw_only=True)
class ToFile(Conditions, OneRun):
    """Arguments of a command that applies the model of a run and writes a file."""

    suffixes: ClassVar[tuple[str, ...]]

    out: Path
    """File to write."""
    member: int = -1
    """Index of the seed whose model is used, from 0 (-1: all seeds, as a leading axis)."""

    def __post_init__(self) -> None:
        """Raise ValueError for an unsupported file suffix."""
        if self.out.suffix not in self.suffixes:
            raise ValueError(f"out={self.out} must end in one of {', '.join(self.suffixes)}")


@dataclass(frozen=True, kw_only=True)
class WithData(ToFile):
    """Arguments of a command that applies the model of a run to new data."""

    data: Positional[Annotated[str, tyro.conf.arg(metavar="DATA")]]
    """Path of a file, folder or tar as for --data, for all examples in order; or the name of a data set, for its test
    split. The options of the run, such as --drop, --size and --window, apply."""


class NewData(NamedTuple):
    """New data in the input shape of a model."""

    x: Shaped[np.ndarray, "N *D"]
    lengths: Int[np.ndarray, " N"] | None
    names: Sequence[str | int]
    description: str  # number of examples, and their source
    columns: tuple[str, ...]  # of a table
    given: dict[str, Any]  # `y` and `context` for a conditional model


def opened(options: ToFile) -> Trained:
    """The model of a run, with all seeds or that of --member. InputError if --member is out of range.

    InputError for a picture of a table, and for a run that is not finished, unless `Trained.save` wrote it.
    """
    model = trained(options)
    chosen = of_member(model, options.member)
    if options.out.suffix == ".png" and len(model.shape) == 1:
        raise InputError(f"--out {options.out}: rows of a table are not images; use .csv or .npy")
    if options.out.suffix == ".png" and len(chosen) > 1:
        raise InputError(f"--out {options.out}: a picture shows one seed, but {_seeds(model)}")
    require_effect(options, model)
    return chosen


def trained(options: OneRun) -> Trained:
    """The model of a run. InputError for a run that is not finished, unless `Trained.save` wrote it."""
    module = module_of(options)
    saved = directory.read(options.run / "config.json")
    if not saved.get("saved"):
        run.require_finished(options.run, saved)
    return run.load(options.run, module)


def of_member(model: Trained, member: int) -> Trained:
    """The model of --member, or of all seeds for -1. InputError if it is out of range."""
    if member >= len(model) or member < -1:
        raise InputError(f"--member {member}: {_seeds(model)}")
    return model if member < 0 else model[member]


def _seeds(model: Trained) -> str:
    one = "the run has one seed; omit it"
    return one if len(model) == 1 else f"the run has {len(model)} seeds; give --member 0 to {len(model) - 1}"


def read_examples(options: WithData, model: Trained) -> NewData:
    """The data in the input shape of the model; pads short sequences. InputError for data of another shape."""
    saved = directory.read(options.run / "config.json")
    how = options_of(saved)
    how = dataclasses.replace(
        how, data=options.data, context=tuple(name for name in how.context if name not in options.covariates)
    )
    data_dir, manual_dir = (saved["config"][name] for name in ("data_dir", "manual_dir"))
    needs_classes = model.experiment.conditional and not options.y
    features = saved["data"].get("features", ())
    found = data.examples(how, data_dir, manual_dir, features, classes=needs_classes)
    x, lengths = found.split.x, found.split.lengths
    if lengths is not None and len(model.shape) == 2 and x.shape[1] < model.shape[0]:
        x = np.pad(x, ((0, 0), (0, model.shape[0] - x.shape[1]), (0, 0)))
    if x.shape[1:] != model.shape:
        raise InputError(
            f"{options.data}: its examples have shape {[*x.shape[1:]]}, but the model of {options.run} takes "
            f"{[*model.shape]}; convert them"
        )
    count = f"{len(x):,} example{'s' * (len(x) > 1)}"
    named = data.path_of(options.data) is None
    about = f"{count} (the test split of {options.data})" if named else count
    given = of_data(options, model, found, options.data)
    return NewData(x, lengths, found.names, about, tuple(features), given)


def chunks(found: NewData, apply: Apply) -> Iterator[np.ndarray]:
    """Yield the results for all examples, a few at a time."""
    size = chunk_of(found.x.shape[1:])
    for i in range(0, len(found.x), size):
        part = slice(i, i + size)
        lengths = None if found.lengths is None else found.lengths[part]
        yield np.asarray(apply(np.asarray(found.x[part]), lengths, **part_of(found.given, part)))


def write(
    options: WithData,
    model: Trained,
    found: NewData,
    apply: Apply,
    what: str,
    column: str = "",
    labels: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> str:
    """Write the results for all examples, as an array or a table with these labels, and return the line to print."""
    results = chunks(found, apply)
    if options.out.suffix == ".csv" or options.out == _output.STDOUT:
        columns = () if column else found.columns
        shape = _output.write_table(options.out, results, found.names, column or "x", model.seeds, columns, labels)
    else:
        shape = _output.write_array(options.out, results, len(found.x), len(model) > 1)
    return "" if options.out == _output.STDOUT else f"{what} of {found.description}, {[*shape]} float32: {options.out}"
