"""How a run ends before its time.

SIGINT and SIGTERM: it saves its last finished step and ends, wherever it is; a second signal ends it at once.

Python runs a signal's handler in the main thread, between two of its own instructions: not while XLA compiles or a
long evaluation is on its way. So a thread that Python wakes by a file descriptor takes over where the main one is late.
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
TWICE = 0.3  # seconds in which a signal that is handed on twice counts once
NUMBERS = (signal.SIGINT, signal.SIGTERM)
Save = Callable[[], None]


class Stop:
    """Whether a signal has come. As long as there is nothing to save, one raises Interrupted in the main thread."""

    def __init__(self) -> None:
        self.number = 0
        self._save: Save | None = None
        self.handled = threading.Event()
        self.patient = False  # whether it waits for the main thread, which has to agree with other processes

    def __call__(self, save: Save | None) -> bool:
        """Whether the caller is to save and end, now. It asks at every step that it has finished.

        save: saves that step, for when the caller takes too long to ask again; None when all is saved.
        """
        self._save = save
        if self.number and save is None:
            raise Interrupted
        if self.number:
            self.handled.set()
        return self.number > 0

    def handle(self, number: int, _: FrameType | None) -> None:
        """In the main thread."""
        self.number = number
        if self._save is None:
            raise Interrupted

    def watch(self, wakeup: int) -> None:
        """In a thread of its own: wait for a signal, see that the process ends, and end it at once at a second one."""
        if number := _next(wakeup):
            self.number, came = number, time.monotonic()
            threading.Thread(target=self._late, daemon=True).start()
            while number := _next(wakeup):
                if time.monotonic() - came > TWICE:
                    os._exit(128 + number)

    def _late(self) -> None:
        """Save and end, if the main thread does not."""
        if self._save is not None:
            _say("stopping after this step; again to end at once")
        if not self.handled.wait(None if self.patient and self._save is not None else GRACE):
            try:
                if self._save is not None:
                    self._save()
                self.end()
            except OSError as error:
                cannot_write(error)

    def end(self) -> NoReturn:
        """End the process: by the signal that has come, to it or to another one."""
        leave(128 + (self.number or signal.SIGTERM), "stopped: the same command goes on from here")


@contextmanager
def stopping() -> Iterator[Stop]:
    """While this is open, signals are the business of what it gives. In the main thread only."""
    stop = Stop()
    read, write = os.pipe()
    os.set_blocking(write, False)
    old_wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    old = {number: signal.signal(number, stop.handle) for number in NUMBERS}
    old_hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = _failed
    sys.unraisablehook = lambda _: None  # tasks that Orbax leaves of a save that failed; the save itself raises
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
    """End the process: the disk is full, or the directory lost."""
    what = f"{error.filename or '--workdir'}: cannot be written ({error.strerror or error})"
    leave(2, f"error: {what}: what was saved is kept, and the same command goes on from there when it can be written")


def _failed(args: threading.ExceptHookArgs) -> None:
    """A thread has ended: at a full disk that of TensorBoard, for which the main one would wait forever."""
    if isinstance(args.exc_value, OSError):
        cannot_write(args.exc_value)
    threading.__excepthook__(args)


def leave(code: int, line: str = "") -> NoReturn:
    """End the process, at once: Python's own way out can crash, or wait, after what has happened."""
    if line:
        _say(line)
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def _say(line: str) -> None:
    with suppress(OSError):  # nobody may be listening any more
        print(line, file=sys.stderr, flush=True)


def _next(wakeup: int) -> int:
    """The next of our signals; 0 when there will be none."""
    while byte := os.read(wakeup, 1):
        if byte[0] in NUMBERS:
            return byte[0]
    return 0
