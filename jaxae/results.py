"""`result.json`: what a run has reached, how like its reconstructions are, what is wrong with its plane of codes."""

import contextlib
import json
import math
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae import disentanglement, evaluate, log
from jaxae.core.experiment import Measure, MeasuredData, TrainedModel
from jaxae.data import Dataset, Split
from jaxae.errors import DAMAGED, InputError
from jaxae.figures.base import spread
from jaxae.loop import Outcome
from jaxae.training.trained import Trained

MOST = 10_000  # images that are measured
MOST_UNITS = 64  # of a code whose units are compared with factors of variation: more take minutes


def collect(test: log.Record, expected: Mapping[str, float | tuple[float, float]], outcome: Outcome) -> dict[str, Any]:
    """What `result.json` holds. expected: the figures of the source, where the run is what the source describes."""
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return {
        "metrics": {key: value for key, value in test.items() if key != "split"},
        "expected": dict(expected),
        "reached": all(reached(log.mean(test[key]), value) for key, value in expected.items()) if expected else None,
        "wall_seconds": round(outcome.wall_seconds, 3),
        "images_per_second": round(outcome.images_per_second, 1),
        "peak_memory_bytes": max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, *peaks),
    }


def read(workdir: Path) -> dict[str, Any]:
    """What `collect` gave. InputError if the file says anything else."""
    file = workdir / "result.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        line = found["metrics"]
        log.check(line)
        for name, value in found["expected"].items():
            reached(log.mean(line[name]), value)
        numbers = [found[name] for name in ("wall_seconds", "images_per_second", "peak_memory_bytes")]
        if found["reached"] not in (True, False, None) or not all(math.isfinite(number) for number in numbers):
            raise TypeError("wrong types")
    except DAMAGED as error:
        raise InputError(
            f"{file}: is damaged ({error!r}): delete it and report.html, and repeat the command that made the run"
        ) from None
    return found


def reached(value: float, expected: float | Sequence[float]) -> bool:
    """Whether a metric is at most, or in the range, of what is expected."""
    low, high = expected if isinstance(expected, Sequence) else (-math.inf, expected)
    return low <= value <= high


def measures(model: Trained, dataset: Dataset, others: Sequence[Trained] = ()) -> dict[str, Any]:
    """How like their originals the reconstructions of the test images are, and the defects of a plane of codes.

    Of the first seed, and of at most 10,000 images. Left out: likeness for sequences and images too small for a window
    of structural similarity, defects where a class has too few codes to have an area.
    With `others`, the models of the other seeds: how codes follow the factors of variation where these are known, and
    what the experiment measures itself; a record of `seeds`, `mean` and `std`, as in `log.fields`, of several seeds.
    """
    found: dict[str, Any] = {}
    test = dataset.test
    if len(test.x) > MOST:
        rows = spread(len(test.x), MOST)
        test = Split(test.x[rows], test.y[rows], None if test.lengths is None else test.lengths[rows])
    if len(model.shape) == 3 and min(model.shape[:2]) >= len(evaluate.WINDOW):
        z = model.encode(model.corrupted(test.x))
        found["likeness"] = evaluate.likeness(model.decode, z, test.x)
    if model.code == (2,) and len(dataset.classes) > 1:
        with contextlib.suppress(ValueError):  # the codes lie on a line
            plane = evaluate.plane(model.decode, np.asarray(model.encode(test.x, test.lengths)), test.y)
            if all(map(math.isfinite, plane.values())):
                found["plane"] = plane
    wanted = dict(model.experiment.measures)
    if dataset.test.factors is not None and math.prod(model.code) <= MOST_UNITS:
        wanted["disentanglement"] = _disentanglement
    for name, measure in wanted.items():
        found[name] = of_seeds(measure, [model, *others], dataset)
    return found


def of_seeds(measure: Measure, models: Sequence[Trained], dataset: Dataset) -> log.Record:
    """What is measured of one model, or of one for each seed: then records of `seeds`, `mean` and `std`."""
    rows = [measure(model, dataset) for model in models]
    return log.fields({key: [row[key] for row in rows] if len(rows) > 1 else rows[0][key] for key in rows[0]})


def _disentanglement(model: TrainedModel, data: MeasuredData) -> dict[str, float]:
    codes, factors = np.asarray(model.encode(data.test.x)), data.test.factors
    return {} if factors is None else disentanglement.measure(codes.reshape(len(codes), -1), factors)


def summary(workdir: Path) -> str:
    """What a finished run says last."""
    result = read(workdir)
    line = result["metrics"]
    spread = {name: f" +- {std:.4f}" for name in log.names(line) if (std := log.std(line[name])) is not None}
    metrics = ", ".join(f"{name} {log.mean(line[name]):.4f}{spread.get(name, '')}" for name in log.names(line))
    reached = {True: " (expected figure reached)", False: " (expected figure NOT reached)", None: ""}
    lines = [
        f"done: test {metrics}{reached[result['reached']]}",
        f"{result['wall_seconds']:.1f} s, {result['images_per_second']:,.0f} images/s",
    ]
    if (workdir / "report.html").exists():
        lines += [f"pictures: {workdir / 'figures'}", f"report:   {workdir / 'report.html'}"]
    return "\n".join(lines)
