"""The command line of a configuration: its flags, and the command that repeats a run."""

import contextlib
import dataclasses
import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

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
    """Parse the command line into a dataclass. InputError, in one line, for invalid arguments; `--help` exits.

    program: its name in the help (default: that of the file).
    """
    import tyro

    argv = sys.argv[1:] if argv is None else argv
    program = program or sys.argv[0]
    if {"-h", "--help"} & {*argv}:
        width = max(80, min(shutil.get_terminal_size().columns, WIDTH))
        print(help_text(kind, description, program, width), flush=True)
        sys.exit(0)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(kind, prog=program, args=argv, config=(tyro.conf.FlagCreatePairsOff,), add_help=False)
    except SystemExit as stop:
        if stop.code != 2:
            raise
    # tyro draws a box of sections between rules; the first ones are errors, the rest is help.
    text = re.sub(r"[╭╮╰╯│]", " ", re.sub(r"╭.*╮", " ", box.getvalue()))
    sections = [" ".join(section.split()) for section in re.split(r"─{3,}", text)]
    said = [section for section in sections if section and not section.startswith("Argument help")]
    # tyro also reports a ValueError that `kind` raises.
    line = "; ".join(said).replace(f"Error parsing {kind.__name__}: ", "")
    raise InputError(f"{_with_flags(kind, line)} (see --help)")


def command(config: Config, name: str) -> str:
    """The command that repeats a run, with every field that affects the result and differs from its default."""
    words = ["python" if name.endswith(".py") else "jaxae", name]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and (field.name not in PLACE or field.name in ("data_dir", "manual_dir")):
            words += [flag(field.name), *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)
