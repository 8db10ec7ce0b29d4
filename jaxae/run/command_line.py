"""The command line of a configuration: its flags, and the command that repeats a run."""

import contextlib
import dataclasses
import difflib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from jaxae.data import ARRAY
from jaxae.errors import InputError
from jaxae.run.config import PLACE, Config, flag
from jaxae.run.help import WIDTH, help_text

C = TypeVar("C")  # a dataclass


@contextlib.contextmanager
def flags_of(config: Any) -> Iterator[None]:
    """Turn an InputError about fields, `batch_size=100 ...`, into one about flags, `--batch-size 100 ...`.

    config: a dataclass, or its type.
    """
    try:
        yield
    except InputError as error:
        raise InputError(_with_flags(config, str(error))) from error


def _with_flags(config: Any, text: str) -> str:
    names = "|".join(field.name for field in dataclasses.fields(config))
    text = re.sub(rf"(?<![\w/])({names})=True\b", lambda found: flag(found[1]), text)
    return re.sub(rf"(?<![\w/])({names})=(\S)", lambda found: f"{flag(found[1])} {found[2]}", text)


def parse(kind: type[C], description: str, argv: Sequence[str] | None = None, program: str | None = None) -> C:
    """Parse the command line into a dataclass; `--help` exits.

    program: its name in the help (default: that of the file).
    InputError for invalid arguments, with a one-line message.
    """
    import tyro
    from tyro import _errors

    argv = sys.argv[1:] if argv is None else argv
    program = program or sys.argv[0]
    if {"-h", "--help"} & {*argv}:
        width = max(80, min(shutil.get_terminal_size().columns, WIDTH))
        print(help_text(kind, description, program, width), flush=True)
        sys.exit(0)

    def refuse(event: Any) -> None:
        if line := _refusal(event, kind):
            raise InputError(f"{_with_flags(kind, line)} (see {program} --help)")

    # The hook is not part of tyro's public interface: pyproject.toml pins the version, a test covers every event.
    with _errors.on_parse_error(refuse):
        return tyro.cli(kind, prog=program, args=argv, config=(tyro.conf.FlagCreatePairsOff,), add_help=False)


def _refusal(event: Any, kind: type[Any]) -> str:
    """Error message for a command line, from the event by which tyro reports it; empty for other events."""
    from tyro import _errors

    unknown: list[str] = []
    missing: list[str] = []
    said: list[str] = []
    match event:
        case _errors.UnrecognizedArgs(tokens=tokens):
            unknown = tokens
        case _errors.MissingArgs(missing_arguments=arguments, unrecognized_tokens=tokens):
            unknown = tokens
            missing = [_label(argument.arg) for argument in arguments]
        case _errors.BadValue(argument=argument):
            said = [f"{_label(argument)} needs a value"]
        case _errors.InvalidChoice(argument=argument, value=value, choices=choices):
            said = [f"{_label(argument)} {value} is unknown; use one of {', '.join(choices)}"]
        case _errors.InstantiationFailure(argument=argument, message=message):  # of a field's type, or of `kind`
            said = [f"{_label(argument)}: {message}" if argument else message]
    if missing:
        said.append(f"missing: {', '.join(missing)}")
    if unknown:
        near = difflib.get_close_matches(unknown[0], [flag(field.name) for field in dataclasses.fields(kind)], 1, 0.7)
        said.append(f"unknown: {' '.join(unknown)}" + "".join(f"; did you mean {name}?" for name in near))
    return "; ".join(said)


def _label(argument: Any) -> str:
    """The flag of an argument, or, without a flag, its name in the help."""
    return str(argument.lowered.metavar) if argument.is_positional() else str(argument.display_name())


def command(config: Config, name: str) -> str:
    """The command that repeats a run, with every field that affects the result and differs from its default.

    Empty for data or an optimizer that was passed as an object, which no command can name.
    """
    if config.data == ARRAY or not isinstance(config.optimizer, str):
        return ""
    words = ["python" if name.endswith(".py") else "jaxae", name]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and (field.name not in PLACE or field.name in ("data_dir", "manual_dir")):
            words += [flag(field.name), *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)
