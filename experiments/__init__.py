"""One file per experiment: a docstring, a `Config`, a `build(config, info)`."""

from pkgutil import iter_modules


def names() -> list[str]:
    """The names of the experiments."""
    return sorted(module.name for module in iter_modules(__path__))
