"""The functions of a trained model as ONNX models, which run without jaxae and JAX.

A file NAME.onnx takes any number of rows; programs.json describes inputs and outputs, as for StableHLO.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae.errors import InputError
from jaxae.run.onnx_graph import OPSET, Graph, Name, Unsupported, element
from jaxae.run.onnx_primitives import PRIMITIVES
from jaxae.run.programs import MARK, described, one_seed, programs
from jaxae.training.trained import Trained

OUTPUT = "output"


def write(folder: Path, trained: Trained) -> str:
    """Write the programs of `programs.write` as ONNX models, and return the class name of the module.

    Results agree to rounding, and samples come from the same random bits as those of JAX; with `precision=mixed`, to
    the rounding of bfloat16. An update at an index out of bounds, which JAX drops, changes the nearest entry instead.
    InputError for several seeds, for a model with a primitive that has no translation, and without the package `onnx`.
    """
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise InputError(f"{folder}: needs the package onnx: pip install 'jaxae[onnx]'") from None
    one_seed(trained)
    about: dict[str, Any] = {"programs": {}}
    for name, program in programs(trained).items():
        try:
            data, out = model(program.function, {key: each.row for key, each in program.inputs.items()}, OUTPUT)
        except Unsupported as error:
            raise InputError(f"{name}: {error}; use format=stablehlo") from None
        (folder / f"{name}.onnx").write_bytes(data)
        about["programs"][name] = described(program, out)
    (folder / MARK).write_text(json.dumps(about, indent=2) + "\n")
    return type(trained.experiment.model).__name__


def model(function: Callable[..., Any], inputs: Mapping[str, jax.ShapeDtypeStruct], output: str) -> tuple[bytes, Any]:
    """An ONNX model of a function of one row of each input, on any number of rows; shape and dtype of its output.

    Unsupported for a primitive without translation.
    """
    from onnx import helper

    (rows,) = jax.export.symbolic_shape("rows")
    specs = [jax.ShapeDtypeStruct((rows, *spec.shape), spec.dtype) for spec in inputs.values()]
    jaxpr = jax.make_jaxpr(jax.vmap(function))(*specs)
    graph = Graph(Name("rows_of_input"), PRIMITIVES)
    first = Name(next(iter(inputs)))
    graph.nodes.append(helper.make_node("Shape", [first], [graph.rows], start=0, end=1))
    values = [
        graph.cast(Name(name), spec.dtype) if spec.dtype == np.uint32 else Name(name) for name, spec in inputs.items()
    ]
    (found,) = graph.inner(jaxpr, values)
    (aval,) = jaxpr.out_avals
    graph.nodes.append(
        helper.make_node("Identity", [found if isinstance(found, Name) else graph.constant(found)], [output])
    )
    ports = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(spec.dtype), ["rows", *spec.shape])
        for name, spec in inputs.items()
    ]
    out = helper.make_tensor_value_info(output, element(aval.dtype), ["rows", *aval.shape[1:]])
    made = helper.make_graph(graph.nodes, "jaxae", ports, [out], graph.constants)
    opset = [helper.make_opsetid("", OPSET)]
    data: bytes = helper.make_model(made, opset_imports=opset, ir_version=10).SerializeToString()
    return data, aval
