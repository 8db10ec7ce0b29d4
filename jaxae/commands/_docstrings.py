"""Docstrings of modules that are not imported, which would load JAX."""

import ast
import importlib
from pathlib import Path
from pkgutil import iter_modules


def docstrings(package: str) -> dict[str, str]:
    """The docstring of every module of a package, by name; without `main` and names that start with `_`."""
    folder = Path(importlib.import_module(package).__file__ or "").parent
    found = sorted(module.name for module in iter_modules([str(folder)]))
    public = [name for name in found if name != "main" and not name.startswith("_")]
    return {name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text("utf-8"))) or "" for name in public}
