"""Training progress: a progress bar, or a line per epoch."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

from jaxae.training.records import Record, mean


def say(text: str) -> None:
    """Print a line, and flush."""
    with suppress(OSError):  # the reader may have closed the pipe
        print(text, flush=True)


class Progress:
    """A bar with epoch, loss, examples per second and time left; without a terminal, a line per epoch."""

    def __init__(self, epochs: int, steps: int, step: int, examples: str = "images") -> None:
        """examples: the noun for them (see `data.words`)."""
        from tqdm.auto import tqdm

        self._epochs, self._steps, self._examples = epochs, steps, examples
        self._first, self._start = 0, 0.0  # step and time when compilation was done
        layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        hidden = not sys.stderr.isatty() and "ipykernel" not in sys.modules
        self._bar = tqdm(total=steps, initial=step, bar_format=layout, disable=hidden, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()

    def update(self, epoch: int, step: int, loss: float, rate: float) -> None:
        """Advance the bar to `step`. rate: examples per second."""
        if not self._start:
            self._first, self._start = step, time.monotonic()
            self._bar.unpause()
        text = f"epoch {epoch}/{self._epochs}, loss {loss:.4g}, {rate:,.0f} {self._examples}/s"
        self._bar.set_description_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def epoch(self, lines: Sequence[Record], rate: float) -> None:
        """Print a line for an epoch, from its records of every split, unless there is a bar."""
        if not self._bar.disable:
            return
        step = lines[0]["step"]
        done = step - self._first
        timed = self._start and done  # false until a dispatch after the first one
        left = f"  {(time.monotonic() - self._start) / done * (self._steps - step):.0f} s left" if timed else ""
        losses = "  ".join(f"{line['split']} loss {mean(line['loss']):.4f}" for line in lines)
        say(f"epoch {lines[0]['epoch']}/{self._epochs}  {losses}  {rate:,.0f} {self._examples}/s{left}")


class NoProgress:
    """A `Progress` that shows nothing."""

    def __enter__(self) -> "NoProgress":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, epoch: int, step: int, loss: float, rate: float) -> None:
        """Like `Progress.update`."""

    def epoch(self, lines: Sequence[Record], rate: float) -> None:
        """Like `Progress.epoch`."""
