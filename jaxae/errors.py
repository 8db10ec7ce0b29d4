"""Errors that end a run; `run.program` maps them to exit codes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """Invalid input: one line that names the problem and the fix. Exit code 2."""


@contextmanager
def input_errors() -> Iterator[None]:
    """Turn a ValueError about arguments into an InputError.

    Only for code that checks a configuration: a ValueError from anywhere else is a bug.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


class Diverged(ArithmeticError):
    """A non-finite number; the message names the step and the term. Exit code 3.

    step_inputs: inputs of that step, for `replay`: state, rows of the batch, key, seed; None for an evaluation.
    workdir: the run directory in which they are saved; None if they are not.
    """

    def __init__(self, line: str, step_inputs: dict[str, Any] | None = None) -> None:
        super().__init__(line)
        self.step_inputs = step_inputs
        self.workdir: Path | None = None


class Interrupted(BaseException):
    """Stopped by a signal, with the last finished step saved. `except Exception` does not catch it."""


BROKEN_FILE = "it may be truncated or damaged: copy or download it again"  # end of a message about a file
# Exceptions raised by reading a damaged file.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


def first_line(error: Exception, longest: int = 300) -> str:
    """First line of the message of another library's error, cut to `longest` characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:longest].rstrip(":")


def discard_output() -> None:
    """Discard buffered standard output after its reader has closed the pipe (`| head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
