"""Names and docstrings of modules, without importing them, which would load JAX."""

import ast
import importlib
import re
from pathlib import Path
from pkgutil import iter_modules

FIELDS = ("Group", "Source", "Published", "Command", "Measured")  # of an experiment's docstring


def names(package: str) -> list[str]:
    """The modules of a package, without `main` and names that start with `_`."""
    found = sorted(module.name for module in iter_modules([str(_folder(package))]))
    return [name for name in found if name != "main" and not name.startswith("_")]


def docstrings(package: str) -> dict[str, str]:
    """The docstring of each of the `names` of a package."""
    files = {name: _folder(package) / f"{name}.py" for name in names(package)}
    return {name: ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "" for name, file in files.items()}


def fields(docstring: str) -> dict[str, str]:
    """The first sentence of an experiment's docstring, as `Idea`, and the text of each field such as `Source: ...`."""
    idea, *parts = re.split(rf"\n(?=(?:{'|'.join(FIELDS)}): )", docstring)
    sentence = re.split(r"\.(?:\s|$)", " ".join(idea.split()))[0]
    return {"Idea": sentence} | {key: " ".join(text.split()) for key, text in (part.split(": ", 1) for part in parts)}


def _folder(package: str) -> Path:
    return Path(importlib.import_module(package).__file__ or "").parent
