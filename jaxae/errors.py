"""The ways in which a run refuses to go on; `run.main` turns them into exit codes."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong and how to mend it. Exit code 2."""


class Diverged(ArithmeticError):
    """A number became NaN or infinite; the line names the step and the term. Exit code 3."""


class Interrupted(BaseException):
    """Asked to stop: what was finished is saved. Not an Exception: whoever catches those is not meant."""


# What reading a file raises that holds something else than was written.
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


def first_line(error: Exception, longest: int = 300) -> str:
    """What another library's error says, short enough for the one line of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:longest].rstrip(":")
