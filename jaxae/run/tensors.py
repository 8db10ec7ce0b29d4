"""A trained model as model.safetensors, with a tensor per variable, and the config.json of its run, without Orbax."""

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
STEP = "step"


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that `write` wrote."""
    return (path / WEIGHTS).is_file()


def write(folder: Path, model: Trained) -> str:
    """Write the model into an existing folder, and return the class name of its module.

    Each array of `model.variables` is a tensor, named by its path, such as params/encoder/Dense_0/kernel; with several
    seeds it has a leading axis of seeds. `step` is the number of training steps. The optimizer state is left out.
    InputError for a model without a configuration, one loaded from such a folder, and without the package
    `safetensors`.
    """
    if model.saver is None:
        raise InputError("the model has no configuration; write a model that jaxae.fit or jaxae.load returned")
    with input_errors():
        model.saver(folder, model, checkpoint=False)
    arrays = {STEP: model.state.step, **_leaves(model.variables)}
    weights.save(folder / WEIGHTS, {path: np.asarray(leaf) for path, leaf in arrays.items()})
    return type(model.experiment.model).__name__


def read(folder: Path, abstract: State) -> State:
    """The state of the model, without the optimizer state. abstract: its shapes and dtypes.

    InputError for missing tensors, and for tensors of other names or shapes.
    """
    held = weights.read(folder / WEIGHTS, dtype=None)
    wanted = {STEP: abstract.step, "params": abstract.params, **abstract.extra}
    shapes = {path: leaf.shape for path, leaf in _leaves(wanted).items()}
    if other := [path for path in {**shapes, **held} if path not in held or held[path].shape != shapes.get(path)]:
        raise InputError(f"{folder / WEIGHTS}: tensor {other[0]} does not match config.json; {BROKEN_FILE}")
    found: dict[str, Any] = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(held[_name(path)], leaf.dtype), wanted
    )
    return State(found.pop(STEP), found.pop("params"), (), found)


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
