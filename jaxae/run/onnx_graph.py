"""Translation of a JAX function into an ONNX graph, primitive by primitive.

What depends on no input is computed by JAX and becomes a constant. uint32 becomes int64, reduced modulo 2^32.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

OPSET = 20
INT = np.int64
MASK = 2**32 - 1
# Operators that have the arguments of the primitive.
SAME = {
    "abs": "Abs", "add": "Add", "ceil": "Ceil", "cos": "Cos", "div": "Div", "eq": "Equal", "erf": "Erf", "exp": "Exp",
    "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater", "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid",
    "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul", "neg": "Neg", "pow": "Pow", "sign": "Sign",
    "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
    "copy": "Identity", "copy_p": "Identity", "stop_gradient": "Identity", "random_wrap": "Identity",
    "random_unwrap": "Identity",
}  # fmt: skip
REDUCE = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd"}
# Primitives whose parameter `jaxpr` is not called once on the inputs.
NO_CALLS = {"scan", "reduce", "reduce_window", "pallas_call"}
# Primitives whose operators may leave the range of uint32.
OVERFLOWS = {"add", "sub", "mul", "neg", "not", "integer_pow", "reduce_sum", "reduce_prod", "convert_element_type"}


class Unsupported(ValueError):
    """A primitive that has no translation."""


class Name(str):
    """A value that is computed in the graph; every other value is an array."""

    __slots__ = ()


class Graph:
    """Nodes and constants of a graph, or of the body of a loop, which sees the values of the graph around it."""

    def __init__(self, rows: Name, primitives: Mapping[str, Callable[..., Any]], outer: "Graph | None" = None) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.rows = rows  # int64 [1], the number of rows
        self._primitives, self._outer = primitives, outer
        self._count = 0

    def name(self) -> Name:
        """A new name."""
        if self._outer is not None:
            return self._outer.name()
        self._count += 1
        return Name(f"v{self._count}")

    def body(self) -> "Graph":
        """The graph of the body of a loop."""
        return Graph(self.rows, self._primitives, self)

    def constant(self, value: Any) -> Name:
        """A constant; uint32 and keys become int64."""
        from onnx import numpy_helper

        if isinstance(value, jax.Array) and is_key(value.dtype):
            value = jax.random.key_data(value)
        array, name = np.asarray(value), self.name()
        array = array.astype(np.int64) if array.dtype == np.uint32 else array
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def op(self, kind: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; its output, or outputs. inputs: names, arrays, or None for an absent one."""
        from onnx import helper

        names = ["" if x is None else x if isinstance(x, Name) else self.constant(x) for x in inputs]
        made = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, made, **attributes))
        return made[0] if outputs == 1 else made

    def ints(self, values: Sequence[Any]) -> Any:
        """Dimensions as int64 [n]: integers, or multiples of the number of rows."""
        if all(isinstance(value, int | np.integer) for value in values):
            return np.array(values, np.int64)
        parts: list[Any] = []
        for value in values:
            if isinstance(value, int | np.integer):
                parts.append(np.array([value], np.int64))
                continue
            factor = re.fullmatch(r"(?:(\d+)\*)?rows", str(value))
            if factor is None:
                raise Unsupported(f"the dimension {value} has no translation")
            parts.append(self.op("Mul", self.rows, np.array([int(factor[1] or 1)], np.int64)))
        return self.op("Concat", *parts, axis=0)

    def cast(self, x: Any, dtype: Any) -> Any:
        """Cast to a JAX dtype."""
        return self.op("Cast", x, to=element(dtype))

    def reshape(self, x: Any, shape: Sequence[Any]) -> Any:
        """Reshape to these dimensions."""
        empty = any(isinstance(n, int) and n == 0 for n in shape)
        return self.op("Reshape", x, self.ints(shape), allowzero=int(empty))

    def reduce(self, kind: str, x: Any, axes: Sequence[Any]) -> Any:
        """Reduce these axes; x itself if there are none, where ONNX would reduce all."""
        return self.op(kind, x, np.array(axes, np.int64), keepdims=0) if axes else x

    def inner(self, jaxpr: ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
        """The outputs of a jaxpr for these inputs."""
        known: dict[Any, Any] = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
        known |= dict(zip(jaxpr.jaxpr.invars, values, strict=True))

        def read(v: Any) -> Any:
            if not isinstance(v, Literal):
                return known[v]
            aval: Any = v.aval
            return np.asarray(v.val, aval.dtype)

        for eqn in jaxpr.jaxpr.eqns:
            given = [read(v) for v in eqn.invars]
            made = self.equation(eqn, given)
            known |= dict(zip(eqn.outvars, made, strict=True))
        return [read(v) for v in jaxpr.jaxpr.outvars]

    def equation(self, eqn: Any, given: list[Any]) -> list[Any]:
        """The outputs of an equation. Unsupported for a primitive without translation."""
        kind = eqn.primitive.name
        body = next((eqn.params[key] for key in ("jaxpr", "call_jaxpr", "call") if key in eqn.params), None)
        if kind not in NO_CALLS and body is not None:
            return self.inner(body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ()), given)
        symbolic = any(not isinstance(n, int) for v in eqn.outvars for n in v.aval.shape)
        if not symbolic and not any(isinstance(x, Name) for x in given):
            found = eqn.primitive.bind(*given, **eqn.params)
            return list(found) if eqn.primitive.multiple_results else [found]
        if kind == "optimization_barrier":
            return [self.op("Identity", x) for x in given]
        if kind in SAME:
            return [self._wrapped(eqn, self.op(SAME[kind], *given))]
        if kind in REDUCE:
            return [self._wrapped(eqn, self.reduce(REDUCE[kind], given[0], eqn.params["axes"]))]
        if kind not in self._primitives:
            raise Unsupported(f"the primitive {kind} has no translation")
        out = self._primitives[kind](self, eqn, *given)
        return out if isinstance(out, list) else [self._wrapped(eqn, out)]

    def _wrapped(self, eqn: Any, out: Any) -> Any:
        """Reduced modulo 2^32, if it may overflow."""
        overflows = eqn.outvars[0].aval.dtype == np.uint32 and eqn.primitive.name in OVERFLOWS
        return self.op("BitwiseAnd", out, np.int64(MASK)) if overflows else out


def shape(v: Any) -> tuple[Any, ...]:
    """Dimensions of a variable; those of keys have two words in addition."""
    return (*v.aval.shape, 2) if is_key(v.aval.dtype) else tuple(v.aval.shape)


def is_key(dtype: Any) -> bool:
    """Whether a dtype is that of keys."""
    return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def element(dtype: Any) -> int:
    """The element type of a JAX dtype."""
    from onnx import helper

    unsigned = is_key(dtype) or dtype == np.uint32
    found: int = helper.np_dtype_to_tensor_dtype(np.dtype(np.int64 if unsigned else dtype))
    return found
