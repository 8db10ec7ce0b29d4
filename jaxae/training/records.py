"""`metrics.jsonl`: a line per epoch and split, with records of several seeds."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.errors import DAMAGED, InputError

Record = dict[str, Any]  # one line of metrics.jsonl


OTHERS = ("epoch", "step", "split")  # fields of a line that are not metrics
SPLITS = ("train", "test", "valid")


def record(epoch: int, step: int, split: str, metrics: dict[str, Any]) -> Record:
    """A line of `metrics.jsonl`. ValueError for a metric with the name of another field."""
    check_names(metrics)
    return {"epoch": epoch, "step": step, "split": split, **fields(metrics)}


def check_names(metrics: Iterable[str]) -> None:
    """Raise ValueError for a metric with the name of another field of `metrics.jsonl`."""
    if reserved := sorted(set(OTHERS) & set(metrics)):
        raise ValueError(f"a metric is named {reserved[0]}, which is a field of metrics.jsonl; rename the metric")


def fields(metrics: Mapping[str, Any]) -> Record:
    """Metrics as JSON: numbers, or with several seeds records of `seeds`, `mean` and `std` (n - 1)."""
    found: Record = {}
    for name, value in sorted(metrics.items()):
        if np.ndim(value):
            found[name] = {
                "seeds": [short(v) for v in value],
                "mean": short(np.mean(value, dtype=np.float64)),
                "std": short(np.std(value, ddof=1, dtype=np.float64)),
            }
        else:
            found[name] = short(value)
    return found


def short(value: Any) -> float:
    """The float with the fewest digits that is the same float32."""
    return float(str(np.float32(value)))


def mean(value: Any) -> float:
    """A metric as one number: its mean over seeds."""
    return float(value["mean"] if isinstance(value, dict) else value)


def std(value: Any) -> float | None:
    """The standard deviation of a metric over seeds; None for one seed."""
    return float(value["std"]) if isinstance(value, dict) else None


def each(value: Any) -> list[float]:
    """A metric of every seed."""
    return [float(v) for v in value["seeds"]] if isinstance(value, dict) else [float(value)]


def names(line: Record) -> list[str]:
    """The metrics of a line."""
    return [name for name in line if name not in OTHERS]


def check(line: Record) -> None:
    """Raise one of `DAMAGED` unless every metric is a number, or one per seed."""
    for name in names(line):
        mean(line[name]), std(line[name]), each(line[name])


def append(path: Path, line: Record) -> None:
    """Append a line to `metrics.jsonl`. OSError if the file does not exist."""
    with path.open("r+") as file:
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())  # the next checkpoint stores the size of the file


def truncate(path: Path, size: int) -> None:
    """Truncate `metrics.jsonl` to its size at a checkpoint. InputError if it is shorter."""
    path.touch()
    if path.stat().st_size < size:
        raise InputError(f"{path} is shorter than at the last checkpoint; restore it, or overwrite=True to start again")
    os.truncate(path, size)


def read(path: Path) -> list[Record]:
    """All lines of `metrics.jsonl`. InputError if one is damaged."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if not (line["split"] in SPLITS and type(line["epoch"]) is type(line["step"]) is int):
                raise TypeError("no epoch, step or split")
            check(line)
    except DAMAGED as error:
        raise InputError(f"{path} is damaged ({error!r}); restore it, or overwrite=True to start again") from None
    return lines


def write_json(path: Path, value: Any) -> None:
    """`write` a JSON value."""
    write(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def of_seed(line: Record, i: int) -> Record:
    """The record of one of several seeds."""
    return {name: value["seeds"][i] if isinstance(value, dict) else value for name, value in line.items()}
