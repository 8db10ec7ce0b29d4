"""Experiments by name: the modules of the package `jaxae.experiments`."""

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from jaxae.errors import InputError, first_line

PACKAGE = "jaxae.experiments"


def names() -> list[str]:
    """The names of the experiments in the package."""
    found: list[str] = importlib.import_module(PACKAGE).names()
    return found


def find(name: str) -> ModuleType:
    """The experiment of this name. InputError if there is none."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(names())}"
        raise InputError(f"experiment={name} is unknown; {hint}")
    return importlib.import_module(f"{PACKAGE}.{name}")


def import_experiment(name: str) -> ModuleType | None:
    """Import an experiment from outside the package; None for "". InputError for a module that is not an experiment."""
    if not name:
        return None
    try:
        module = importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise InputError(f"module={name} cannot be imported ({first_line(error)})") from None
    if not (hasattr(module, "Config") and hasattr(module, "build")):
        raise InputError(f"module={name} is not an experiment: it must define Config and build")
    return module


def name_of(module: ModuleType) -> str:
    """Recorded name of an experiment: `vae` in the package, the name of the file, `my_vae.py`, outside it."""
    file = Path(module.__file__ or module.__name__)
    package = Path(importlib.import_module(PACKAGE).__file__ or "").parent
    return file.stem if file.resolve().parent == package.resolve() else file.name
