"""A trained model as model.safetensors, its variables by path, and the config.json of its run: read without Orbax."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.core.types import State
from jaxae.data import weights
from jaxae.errors import BROKEN_FILE, InputError, input_errors
from jaxae.training.trained import Trained

WEIGHTS = "model.safetensors"
FILES = ("config.json", "metrics.jsonl")


def is_folder(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / WEIGHTS).is_file()


def write(folder: Path, model: Trained) -> str:
    """Write the model into an existing folder, and return the name of its module.

    Each array of `model.variables` is a tensor, named by its path such as params/encoder/Dense_0/kernel; with several
    seeds each has a leading axis of seeds. The optimizer's state is left out. InputError where `Trained.save` raises
    ValueError, and without the package `safetensors`.
    """
    weights.save(folder / WEIGHTS, {path: np.asarray(leaf) for path, leaf in _leaves(model.variables).items()})
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        with input_errors():
            model.save(Path(directory) / "run")
        for name in FILES:
            shutil.copy(Path(directory) / "run" / name, folder)
    return type(model.experiment.model).__name__


def read(folder: Path, abstract: State) -> State:
    """The state of the model, without that of the optimizer. abstract: its shapes and types.

    InputError for missing tensors, and for those of other shapes.
    """
    held, wanted = weights.read(folder / WEIGHTS, dtype=None), {"params": abstract.params, **abstract.extra}
    shapes = {path: leaf.shape for path, leaf in _leaves(wanted).items()}
    if other := [path for path in {**shapes, **held} if path not in held or held[path].shape != shapes.get(path)]:
        raise InputError(f"{folder / WEIGHTS}: tensor {other[0]} is not that of config.json; {BROKEN_FILE}")
    found: dict[str, Any] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(held[_name(path)], leaf.dtype), wanted
    )
    return State(jnp.zeros(abstract.step.shape, jnp.int32), found.pop("params"), (), found)


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
