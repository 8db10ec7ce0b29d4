"""The help of a command line, from the fields, types, defaults and docstrings of its dataclass."""

import ast
import dataclasses
import inspect
import re
import textwrap
import unicodedata
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxae.data.options import Options
from jaxae.run.config import Config, Devices, Folders, Optimization, Output, Training, flag

WIDTH = 99  # maximum columns
COLUMN = 26  # where the meaning of a flag starts
GROUPS = {"optimizer": (Optimization,), "data": (Options, Folders), "run": (Training, Output), "devices": (Devices,)}


def help_text(kind: type[Any], description: str, program: str, width: int = WIDTH) -> str:
    """Usage, description, and the arguments by group, each with its meaning and default.

    kind: a dataclass with a docstring below each field. width: maximum columns.
    """
    from tyro.conf import Positional

    hints = get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    positional = [name for name in fields if Positional in getattr(hints[name], "__metadata__", ())]
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    heads = {name: _metavar(hints[name]) if name in positional else _head(name, hints[name]) for name in fields}
    usage = ["usage:", program, "[-h]", *(heads[name] for name in dict.fromkeys([*positional, *required]))]
    if len(fields) > len(required):
        usage.append("[OPTIONS]")
    lines = _wrapped(" ".join(usage), width, after=" " * len("usage: ")) + _description(description, width)
    meanings = _meanings(kind)
    for title, names in _groups(kind, positional, [*meanings]).items():
        if names:
            lines += ["", f"{title}:"]
        for name in names:
            default = "" if name in positional else _default(fields[name].default)
            lines += _entry(heads[name], f"{meanings[name]} {default}", width)
    return "\n".join(lines)


def _meanings(kind: type[Any]) -> dict[str, str]:
    """The docstring of each field: first the fields that the class itself declares, then those of its bases."""
    found: dict[str, str] = {}
    for part in filter(dataclasses.is_dataclass, kind.__mro__):
        for name, text in _declared(part).items():
            found[name] = found.get(name) or text
    return found


@cache
def _declared(part: type[Any]) -> dict[str, str]:
    """The docstring, or "", of each field in the body of a class."""
    names = [field.name for field in dataclasses.fields(part)]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
    except (OSError, TypeError):  # a class of an interactive session has no source
        return dict.fromkeys(names, "")
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found = {}
    for node, below in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in names:
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            found[node.target.id] = " ".join(str(text).split())
    return found


def _groups(kind: type[Any], positional: list[str], names: list[str]) -> dict[str, list[str]]:
    """The names of the fields in each group; an experiment's own fields come first."""
    if not issubclass(kind, Config):
        return {"arguments": positional, "options": [name for name in names if name not in positional]}
    common = {field.name for field in dataclasses.fields(Config)}
    parts = {title: [field.name for part in g for field in dataclasses.fields(part)] for title, g in GROUPS.items()}
    return {"experiment": [name for name in names if name not in common], **parts}


def _head(name: str, hint: Any) -> str:
    return flag(name) if hint is bool else f"{flag(name)} {_metavar(hint)}"


def _metavar(hint: Any) -> str:
    for mark in getattr(hint, "__metadata__", ()):
        if metavar := getattr(mark, "metavar", None):
            return str(metavar)
    if get_origin(hint) is Literal:
        choices = ",".join(map(str, get_args(hint)))
        return "{" + (choices.replace(",", ", ") if len(choices) > WIDTH - COLUMN else choices) + "}"  # may wrap
    if get_origin(hint) is tuple:
        return f"[{_metavar(get_args(hint)[0])} ...]"
    return str(hint.__name__).upper()


def _default(value: Any) -> str:
    """The default in parentheses. None for an empty string, whose effect the docstring states."""
    if value is dataclasses.MISSING:
        return "(required)"
    if isinstance(value, bool):
        text = "on" if value else "off"
    elif isinstance(value, tuple):
        text = " ".join(map(str, value)) or "none"
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"(default: {text})".replace(" ", "\xa0") if text else ""


def _description(text: str, width: int) -> list[str]:
    """Paragraphs. Fields such as `Source: ...` each start a line."""
    lines = []
    for paragraph in filter(None, inspect.cleandoc(text).split("\n\n")):
        lines.append("")
        for part in re.split(r"\n(?=[A-Z][a-z]+: )", paragraph):
            indent = part[: len(part) - len(part.lstrip(" "))]
            after = "  " if re.match("[A-Z][a-z]+: ", part) else indent
            lines += _wrapped(" ".join(part.split()).replace(" +- ", "\xa0+-\xa0"), width, indent, after)
    return lines


def _entry(head: str, text: str, width: int) -> list[str]:
    lines = _wrapped(text, width, " " * COLUMN, " " * COLUMN)
    if len(head) + 4 > COLUMN:
        return [*_wrapped(head, width, "  ", "      "), *lines]
    return [f"  {head}".ljust(COLUMN) + lines[0].lstrip(), *lines[1:]] if lines else [f"  {head}"]


def _wrapped(text: str, width: int, before: str = "", after: str = "") -> list[str]:
    """Lines of at most `width` columns, of which a wide East Asian character takes two. U+00A0 does not break."""
    columns = "".join(c + "\0" * (unicodedata.east_asian_width(c) in "WF") for c in text)
    lines = textwrap.wrap(columns, width, initial_indent=before, subsequent_indent=after, break_on_hyphens=False)
    return [line.replace("\0", "").replace("\xa0", " ") for line in lines]
