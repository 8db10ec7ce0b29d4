"""Trackers of a run: TensorBoard, and the one that `--track` names."""

import importlib
import importlib.util
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from jaxae.errors import DAMAGED, InputError, first_line
from jaxae.run import config as configs
from jaxae.run.config import Config
from jaxae.run.tensorboard import TensorBoard
from jaxae.training.records import Record, mean, names, std, write_json

IDS = "tracking.json"  # in the run directory: the id of the tracked run by tracker
Values: TypeAlias = Mapping[str, float]


@runtime_checkable
class Tracker(Protocol):
    """Shows metrics, pictures and parameters of a run."""

    last_step: int
    """Step of the newest metrics of the tracked run (-1: it has none)."""

    def metrics(self, values: Values, step: int) -> None:
        """Track metrics by name, such as kl/test, all those of a step at once."""

    def picture(self, path: Path, step: int, name: str) -> None:
        """Track a PNG file as an image of this name."""

    def parameters(self, config: Mapping[str, Any], final: Values, step: int) -> None:
        """Track the configuration, and at the end of training the final test metrics (before it empty)."""

    def finish(self, complete: bool) -> None:
        """Write what is not yet written. complete: whether the run is, or was stopped and may be resumed."""


class Identity(NamedTuple):
    """The tracked run that a run directory continues."""

    project: str
    name: str
    workdir: Path
    last_step: int  # step of the newest metrics that were tracked before the checkpoint (-1: none)

    def id(self, tracker: str, new: Callable[[], str] = lambda: uuid.uuid4().hex[:8]) -> tuple[str, bool]:
        """Id of the tracked run, and whether it existed. new: makes the id of a new one."""
        file = self.workdir / IDS
        try:
            known = json.loads(file.read_text()) if file.exists() else {}
            if tracker in known:
                return str(known[tracker]), True
        except DAMAGED as error:
            raise InputError(f"{file} is damaged ({error!r}); delete it to start a new tracked run") from None
        made = new()
        write_json(file, {**known, tracker: made})
        return made, False


class Trackers:
    """All trackers of a run."""

    def __init__(self, board: TensorBoard, name: str = "", other: Tracker | None = None) -> None:
        self._board, self._name, self._other = board, name, other

    def metrics(self, lines: Sequence[Record]) -> None:
        """Track lines of metrics.jsonl of one step: NAME/SPLIT, with several seeds the mean, and NAME/SPLIT/std."""
        found = [(f"{name}/{line['split']}", line[name]) for line in lines for name in names(line)]
        deviations = [(f"{name}/std", deviation) for name, value in found if (deviation := std(value)) is not None]
        values, step = {**{name: mean(value) for name, value in found}, **dict(deviations)}, lines[-1]["step"]
        self._each(lambda tracker: tracker.metrics(values, step) if step > tracker.last_step else None)

    def picture(self, path: Path, step: int, name: str = "") -> None:
        """Track a PNG file as an image of this name (default: that of the file)."""
        self._each(lambda tracker: tracker.picture(path, step, name or path.stem))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """Show a histogram of these values in TensorBoard."""
        self._board.histogram(name, values, step)

    def parameters(self, config: Config, test: Record) -> None:
        """Track the configuration, and the final test metrics."""
        fields = as_parameters(config)
        final = {f"final/{name}": mean(test[name]) for name in names(test)}
        self._each(lambda tracker: tracker.parameters(fields, final, test["step"]))

    def finish(self, complete: bool) -> None:
        """Finish every tracker."""
        self._each(lambda tracker: tracker.finish(complete))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        """Apply to each tracker. One that fails, other than TensorBoard, is dropped with a warning."""
        act(self._board)
        if self._other is not None:
            try:
                act(self._other)
            except Exception as error:
                failed, self._other = self._other, None
                warning = "%s: %s; no longer tracked; metrics.jsonl has all metrics"
                logging.getLogger("jaxae").warning(warning, self._name, first_line(error))
                with suppress(Exception):
                    failed.finish(False)


def as_parameters(config: Config) -> dict[str, int | float | str]:
    """The fields of a configuration; lists as words."""
    found = configs.to_json(config).items()
    return {k: v if isinstance(v, int | float | str) else " ".join(map(str, v)) for k, v in found}


def require(name: str) -> None:
    """Raise InputError for a tracker whose package is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(f"track={name} needs the package {name}: pip install 'jaxae[{name}]'")


@contextmanager
def opened(workdir: Path, config: Config, step: int, lines: Sequence[Record]) -> Iterator[Trackers]:
    """The trackers of a run that starts or resumes at a step. lines: those of metrics.jsonl up to this step.

    A resumed run continues its tracked run, to which lines that it lacks are added. InputError for a tracker that
    cannot be opened.
    """
    tested = [line["step"] for line in lines if line["split"] == "test"]  # of complete epochs
    last = max(tested, default=-1)
    other = None
    if config.track != "none":
        identity = Identity(config.track_project, workdir.resolve().name, workdir, last)
        try:
            other = importlib.import_module(f"jaxae.run.{config.track}").opened(identity)
            other.parameters(as_parameters(config), {}, 0)  # where some open
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"track={config.track}: {first_line(error)}; use another, or track=none") from error
    trackers = Trackers(TensorBoard(workdir / "tensorboard", step, last), config.track, other)
    complete = False
    try:
        for now in tested:
            trackers.metrics([line for line in lines if line["step"] == now])
        yield trackers
        complete = True
    finally:
        trackers.finish(complete)
