"""Stopping a run by SIGINT or SIGTERM.

The first signal saves the last finished step and ends the process; a second one ends it immediately.

Python runs signal handlers in the main thread, between two bytecode instructions: not during a compilation or a long
evaluation by XLA. A second thread, woken through a file descriptor, ends the process if the main thread does not.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from jaxae.errors import Interrupted

GRACE = 1.0  # seconds for the main thread to stop by itself
TWICE = 0.3  # seconds within which a repeated signal counts as the same one, forwarded twice
NUMBERS = (signal.SIGINT, signal.SIGTERM)
Save = Callable[[], None]


class Stop:
    """Whether to stop. Without anything to save, a signal raises Interrupted in the main thread."""

    def __init__(self) -> None:
        self.number = 0
        self._save: Save | None = None
        self.handled = threading.Event()
        self.patient = False  # whether to wait for the main thread, which must agree with other processes

    def __call__(self, save: Save | None) -> bool:
        """Whether the caller must save and stop now. To be called after every finished step.

        save: saves that step, in case the next call is late; None if everything is saved.
        """
        self._save = save
        if self.number and save is None:
            raise Interrupted
        if self.number:
            self.handled.set()
        return self.number > 0

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handle a signal, in the main thread."""
        self.number = number
        if self._save is None:
            raise Interrupted

    def watch(self, wakeup: int) -> None:
        """Wait for a signal in a second thread, and ensure that the process ends, immediately at a second signal."""
        if number := _next(wakeup):
            self.number, came = number, time.monotonic()
            threading.Thread(target=self._late, daemon=True).start()
            while number := _next(wakeup):
                if time.monotonic() - came > TWICE:
                    os._exit(128 + number)

    def _late(self) -> None:
        """Save and end the process if the main thread does not."""
        if self._save is not None:
            _say("stopping after this step; a second signal stops immediately")
        if not self.handled.wait(None if self.patient and self._save is not None else GRACE):
            try:
                if self._save is not None:
                    self._save()
                self.end()
            except OSError as error:
                cannot_write(error)

    def end(self) -> NoReturn:
        """End the process with the exit code of the signal that this or another process received."""
        leave(128 + (self.number or signal.SIGTERM), "stopped: the same command resumes from here")


@contextmanager
def stopping() -> Iterator[Stop]:
    """Handle signals with the yielded `Stop` within the body. Works in the main thread only."""
    stop = Stop()
    read, write = os.pipe()
    os.set_blocking(write, False)
    old_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    old = {number: signal.signal(number, stop.handle) for number in NUMBERS}
    old_hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = _failed
    sys.unraisablehook = lambda _: None  # hides messages about the remaining tasks of a failed Orbax save
    watcher = threading.Thread(target=stop.watch, args=(read,), daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        stop.handled.set()
        threading.excepthook, sys.unraisablehook = old_hooks
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_wakeup)
        os.close(write)
        watcher.join(GRACE)
        os.close(read)


def cannot_write(error: OSError) -> NoReturn:
    """End the process after a full disk or the loss of the run directory."""
    what = f"{error.filename or '--workdir'} cannot be written ({error.strerror or error})"
    leave(2, f"error: {what}: saved checkpoints are kept; make it writable, and repeat the command to resume")


def _failed(args: threading.ExceptHookArgs) -> None:
    """Exception hook of threads: end the process if the disk is full, since the main thread waits for TensorBoard's."""
    if isinstance(args.exc_value, OSError):
        cannot_write(args.exc_value)
    threading.__excepthook__(args)


def leave(code: int, line: str = "") -> NoReturn:
    """End the process without Python's shutdown, which can crash or hang after an error."""
    if line:
        _say(line)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def _say(line: str) -> None:
    with suppress(OSError):  # the reader may have closed the pipe
        sys.stderr.write(f"{line}\n")  # in one call: `print` makes two, and another thread may write between them
        sys.stderr.flush()


def _next(wakeup: int) -> int:
    """The next SIGINT or SIGTERM; 0 at the end of the pipe."""
    while byte := os.read(wakeup, 1):
        if byte[0] in NUMBERS:
            return byte[0]
    return 0
