"""Tensors in `.safetensors` files, and the parameters of a net from one, by a mapping of tensor names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from jaxae.errors import BROKEN_FILE, InputError, first_line


def params(path: Path, net: nn.Module, tensors: Mapping[str, str], *inputs: Any, prefix: str = "") -> Any:
    """The parameters of a Flax net, float32, from a file of weights.

    tensors: name of the tensor of each parameter, by the parameter's path in the tree (`layer_{i}/query/kernel`);
    {i} stands for the first number in the path. A parameter called `kernel` is [in, out], its tensor [out, in]. inputs:
    arguments of the net, arrays or their shapes. prefix: optional in the names of all tensors (`bert.`).
    Other tensors are not read. ValueError for a parameter that `tensors` lacks; InputError for a missing tensor, one of
    another shape, and as in `read`.
    """
    wanted = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    leaves, structure = jax.tree.flatten_with_path(wanted)
    names = {"/".join(part.key for part in keys): leaf.shape for keys, leaf in leaves}
    tensor_of = {parameter: _tensor(parameter, tensors) for parameter in names}
    held = read(path, {prefix + name for name in tensor_of.values()} | {*tensor_of.values()})
    found = []
    for parameter, shape in names.items():
        name = tensor_of[parameter]
        if name not in held and prefix + name not in held:
            raise InputError(f"{path} has no tensor {name}; use weights of that model")
        x = held[name if name in held else prefix + name]
        x = x.T if parameter.endswith("kernel") else x
        if x.shape != shape:
            raise InputError(f"{path}: tensor {name} becomes {[*x.shape]}, not {[*shape]}; use weights of that model")
        found.append(jnp.asarray(x))
    return jax.tree.unflatten(structure, found)


def read(path: Path, names: set[str] | None = None, dtype: Any = np.float32) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The tensors of a file; of those in `names`, if given, the ones that the file holds.

    dtype: into which they are converted (None: not converted).
    InputError for a file that cannot be read, and without the package `safetensors`.
    """
    _require(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            chosen = [name for name in file.keys() if names is None or name in names]  # noqa: SIM118 (no mapping)
            return {name: np.asarray(file.get_tensor(name), dtype) for name in chosen}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}); {BROKEN_FILE}") from None


def save(path: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Write arrays into a file. OSError; InputError without the package `safetensors`."""
    _require(path)
    from safetensors.numpy import save

    path.write_bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def _require(path: Path) -> None:
    try:
        import safetensors  # noqa: F401
    except ImportError:
        raise InputError(f"{path}: needs the package safetensors: pip install 'jaxae[lm]'") from None


def _tensor(parameter: str, tensors: Mapping[str, str]) -> str:
    """The name of the tensor of a parameter. ValueError if the mapping lacks it."""
    number = re.search(r"\d+", parameter)
    pattern = parameter if number is None else parameter.replace(number[0], "{i}", 1)
    if pattern not in tensors:
        raise ValueError(f"parameter {parameter} has no tensor; add {pattern} to the mapping")
    return tensors[pattern].replace("{i}", number[0] if number else "")
