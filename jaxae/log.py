"""What a run says while it trains: a progress bar, `metrics.jsonl`, TensorBoard."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from jaxae.errors import DAMAGED, InputError

Record = dict[str, Any]  # one line of metrics.jsonl
OTHERS = ("epoch", "step", "split")  # fields of a line that are no metrics


def record(epoch: int, step: int, split: str, metrics: dict[str, Any]) -> Record:
    """A line of `metrics.jsonl`. ValueError for a metric with the name of another field."""
    check_names(metrics)
    return {"epoch": epoch, "step": step, "split": split, **fields(metrics)}


def check_names(metrics: Iterable[str]) -> None:
    """Raise ValueError for a metric with the name of another field of `metrics.jsonl`."""
    if taken := sorted(set(OTHERS) & set(metrics)):
        raise ValueError(f"a metric is named {taken[0]}, which is a field of metrics.jsonl; rename the metric")


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
    """One of `DAMAGED` if a metric is not a number, or not one per seed."""
    for name in names(line):
        mean(line[name]), std(line[name]), each(line[name])


def append(path: Path, line: Record) -> None:
    """Add a line to `metrics.jsonl`, which must be there: one that is gone is not begun again."""
    with path.open("r+") as file:
        file.seek(0, os.SEEK_END)
        file.write(json.dumps(line, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())  # a checkpoint that counts on the line may follow


def truncate(path: Path, size: int) -> None:
    """Cut `metrics.jsonl` back to what it was at a checkpoint. InputError if it has become shorter."""
    path.touch()
    if path.stat().st_size < size:
        raise InputError(
            f"{path}: is shorter than when its run was saved: put it back, or overwrite=True to start again"
        )
    os.truncate(path, size)


def read(path: Path) -> list[Record]:
    """All lines of `metrics.jsonl`. InputError if one is damaged."""
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if not (line["split"] in ("train", "test") and type(line["epoch"]) is type(line["step"]) is int):
                raise TypeError("no epoch, step or split")
            check(line)
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged ({error!r}): put it back, or overwrite=True to start again") from None
    return lines


class Silent:
    """In place of a writer, where another process writes."""

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, _: str) -> Callable[..., None]:
        return lambda *_, **__: None


def say(text: str) -> None:
    """A line, at once."""
    with suppress(OSError):  # nobody may be listening any more
        print(text, flush=True)


class Progress:
    """A bar with epoch, loss, images per second and time left; a line per epoch where there is no terminal."""

    def __init__(self, epochs: int, steps: int, step: int) -> None:
        from tqdm.auto import tqdm

        self._epochs, self._steps = epochs, steps
        self._first, self._start = 0, 0.0  # step and time when compilation was done
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        hidden = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        self._bar = tqdm(total=steps, initial=step, bar_format=layout, disable=hidden, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()

    def update(self, epoch: int, step: int, loss: float, rate: float) -> None:
        """After some steps. rate: images per second."""
        if not self._start:
            self._first, self._start = step, time.monotonic()
            self._bar.unpause()
        text = f"epoch {epoch}/{self._epochs}, loss {loss:.4g}, {rate:,.0f} images/s"
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def epoch(self, train: Record, test: Record, rate: float) -> None:
        """After an epoch."""
        if not self._bar.disable:
            return
        step = train["step"]
        done = step - self._first
        timed = self._start and done  # not where a run goes on at the end of an epoch, or an epoch is one dispatch
        left = f"  {(time.monotonic() - self._start) / done * (self._steps - step):.0f} s left" if timed else ""
        say(
            f"epoch {train['epoch']}/{self._epochs}  train loss {mean(train['loss']):.4f}  "
            f"test loss {mean(test['loss']):.4f}  {rate:,.0f} images/s{left}"
        )


class TensorBoard:
    """Event files: a scalar per metric and split at every epoch, pictures, histograms, and hyper-parameters.

    With several seeds: the mean, and the standard deviation as `NAME/SPLIT/std`.
    """

    def __init__(self, directory: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=step + 1 if step else None)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.close()

    def scalars(self, line: Record) -> None:
        """The metrics of a line."""
        for name in names(line):
            self._writer.add_scalar(f"{name}/{line['split']}", mean(line[name]), line["step"])
            if (deviation := std(line[name])) is not None:
                self._writer.add_scalar(f"{name}/{line['split']}/std", deviation, line["step"])
        self._writer.flush()

    def picture(self, path: Path, step: int, name: str = "") -> None:
        """A PNG file as an image of this name, or that of the file."""
        from PIL import Image

        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self._writer.add_image(name or path.stem, pixels, step, dataformats="HWC")

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """How these values are distributed."""
        self._writer.add_histogram(name, values.ravel(), step)

    def parameters(self, config: dict[str, Any], test: Record) -> None:
        """The fields of a run with what it has reached, for the table of hyper-parameters."""
        fields = {k: v if isinstance(v, int | float | str) else " ".join(map(str, v)) for k, v in config.items()}
        self._writer.add_hparams(fields, {f"final/{n}": mean(test[n]) for n in names(test)}, "final", test["step"])
