"""Parameters of a net from a `.safetensors` file, by a mapping of tensor names."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxae.errors import BROKEN_FILE, InputError, first_line

EXTRA = "pip install 'jaxae[lm]'"


def read(path: Path, net: nn.Module, tensors: Mapping[str, str], *inputs: Any, prefix: str = "") -> Any:
    """The parameters of a Flax net, float32, from a file of weights.

    tensors: name of the tensor of each parameter, by the parameter's path in the tree (`layer_{i}/query/kernel`);
    {i} stands for the first number in the path. A parameter called `kernel` is [in, out], its tensor [out, in]. inputs:
    arguments of the net, arrays or their shapes. prefix: what the names of all tensors may start with (`bert.`).
    Other tensors are not read. ValueError for a parameter that `tensors` lacks; InputError for a missing tensor, one of
    another shape, a file that cannot be read, and without the package `safetensors`.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise InputError(f"{path}: reading weights needs the package safetensors: {EXTRA}") from None
    wanted = jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    leaves, structure = jax.tree.flatten_with_path(wanted)
    try:
        with safe_open(path, framework="numpy") as file:
            held = set(file.keys())
            found = []
            for keys, leaf in leaves:
                parameter = "/".join(part.key for part in keys)
                name = _tensor(parameter, tensors)
                name = prefix + name if name not in held else name
                if name not in held:
                    raise InputError(f"{path}: has no tensor {name.removeprefix(prefix)}: use weights of that model")
                x = np.asarray(file.get_tensor(name), np.float32)
                x = x.T if parameter.endswith("kernel") else x
                if x.shape != leaf.shape:
                    raise InputError(
                        f"{path}: tensor {name} becomes {[*x.shape]}, not {[*leaf.shape]}: use weights of that model"
                    )
                found.append(jnp.asarray(x))
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); {BROKEN_FILE}") from None
    return jax.tree.unflatten(structure, found)


def _tensor(parameter: str, tensors: Mapping[str, str]) -> str:
    """The name of the tensor of a parameter. ValueError if the mapping lacks it."""
    number = re.search(r"\d+", parameter)
    pattern = parameter if number is None else parameter.replace(number[0], "{i}", 1)
    if pattern not in tensors:
        raise ValueError(f"parameter {parameter} has no tensor: add {pattern} to the mapping")
    return tensors[pattern].replace("{i}", number[0] if number else "")
