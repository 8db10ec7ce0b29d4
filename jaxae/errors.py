"""The ways in which a run refuses to go on; `run.program` turns them into exit codes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """Bad input: one line that says what is wrong and how to mend it. Exit code 2."""


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
    """A number became NaN or infinite; the line names the step and the term. Exit code 3.

    step_inputs: what the bad step started from, for `replay`: the state, the rows of the batch, the key, the seed;
    None for an evaluation.
    """

    def __init__(self, line: str, step_inputs: dict[str, Any] | None = None) -> None:
        super().__init__(line)
        self.step_inputs = step_inputs


class Interrupted(BaseException):
    """Asked to stop: what was finished is saved. Not an Exception: whoever catches those is not meant."""


# What reading a file raises that holds something else than was written.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


def first_line(error: Exception, longest: int = 300) -> str:
    """What another library's error says, short enough for the one line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:longest].rstrip(":")


def discard_output() -> None:
    """Discard what is still buffered for standard output, which nobody reads any more (`| head`)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
