"""Autoencoders in JAX on one small functional core.

`load` opens a finished or running experiment; everything else is imported by its own name
(`jaxae.prob`, `jaxae.nets`, `jaxae.variants.vae`, ...), so that `import jaxae` costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxae.run import load as load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from jaxae.run import load

        return load
    raise AttributeError(f"module 'jaxae' has no attribute {name!r}")
