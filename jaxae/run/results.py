"""`result.json` and report.html: the results of a run."""

import json
import math
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxae.core.experiment import reached
from jaxae.data import Dataset, activations, words
from jaxae.errors import DAMAGED, InputError
from jaxae.report import html
from jaxae.run import directory
from jaxae.run.loop import Outcome
from jaxae.training import records
from jaxae.training.trained import Trained


def collect(
    test: records.Record, expected: Mapping[str, float | tuple[float, float]], outcome: Outcome
) -> dict[str, Any]:
    """Contents of `result.json`. expected: the expected results; empty for a configuration without any.

    `images_per_second` is the number of examples per second, for every kind of data.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    return {
        "metrics": {key: value for key, value in test.items() if key != "split"},
        "expected": dict(expected),
        "reached": all(reached(records.mean(test[key]), value) for key, value in expected.items())
        if expected
        else None,
        "wall_seconds": round(outcome.wall_seconds, 3),
        "images_per_second": round(outcome.images_per_second, 1),
        "peak_memory_bytes": max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, *peaks),
    }


def read(workdir: Path) -> dict[str, Any]:
    """Read `result.json`. InputError for content that `collect` does not return."""
    file = workdir / "result.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        line = found["metrics"]
        records.check(line)
        for name, value in found["expected"].items():
            reached(records.mean(line[name]), value)
        numbers = [found[name] for name in ("wall_seconds", "images_per_second", "peak_memory_bytes")]
        if found["reached"] not in (True, False, None) or not all(math.isfinite(number) for number in numbers):
            raise TypeError("wrong types")
    except DAMAGED as error:
        raise InputError(
            f"{file} is damaged ({error!r}); delete it and report.html, and repeat the command that made the run"
        ) from None
    return found


def write_report(workdir: Path, title: str, model: Trained, data: Dataset, result: dict[str, Any]) -> None:
    """Write report.html into a run directory, from its model, its data and its files."""
    saved = directory.read(workdir / "config.json")
    folder = activations.folder_of(Path(saved["config"]["data"]).expanduser())
    html.write(
        workdir / "report.html",
        title,
        model,
        data,
        saved=saved,
        lines=records.read(workdir / "metrics.jsonl"),
        result=result,
        pictures=sorted((workdir / "figures").glob("*.png")),
        sounds=sorted((workdir / "figures").glob("*.wav")),
        text=activations.read(folder) if folder else None,
    )


def summary(workdir: Path) -> str:
    """The final output of a run."""
    result = read(workdir)
    line = result["metrics"]
    spread = {name: f" +- {std:.4f}" for name in records.names(line) if (std := records.std(line[name])) is not None}
    metrics = ", ".join(f"{name} {records.mean(line[name]):.4f}{spread.get(name, '')}" for name in records.names(line))
    kind = directory.read(workdir / "config.json")["data"].get("kind", "image")
    reached = {True: " (expected result reached)", False: " (expected result NOT reached)", None: ""}
    lines = [
        f"done: test {metrics}{reached[result['reached']]}",
        f"{result['wall_seconds']:.1f} s, {result['images_per_second']:,.0f} {words(kind).examples}/s",
    ]
    for name, path in (("pictures:", workdir / "figures"), ("report:  ", workdir / "report.html")):
        lines += [f"{name} {path}"] * path.exists()
    return "\n".join(lines)
