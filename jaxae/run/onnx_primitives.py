"""Primitives of JAX as nodes of an ONNX graph: (graph, equation, *inputs) -> output, or list of outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.lax import RoundingMethod

from jaxae.run.onnx_graph import INT, Graph, Unsupported, element, is_key, shape
from jaxae.run.onnx_indices import gather, scatter
from jaxae.run.onnx_random import bits_as_float, erf_inv, random_bits, random_split


def broadcast_in_dim(g: Graph, eqn: Any, x: Any, *_: Any) -> Any:
    """`Reshape` to an axis of 1 for each new one, and `Expand`."""
    dims, out = eqn.params["broadcast_dimensions"], shape(eqn.outvars[0])
    of = shape(eqn.invars[0])
    if is_key(eqn.outvars[0].aval.dtype):
        dims = (*dims, len(out) - 1)
    ones = [of[dims.index(i)] if i in dims else 1 for i in range(len(out))]
    x = g.reshape(x, ones)
    return x if ones == list(out) else g.op("Expand", x, g.ints(out))


def iota(g: Graph, eqn: Any, *_: Any) -> Any:
    """`Range`."""
    out, axis = shape(eqn.outvars[0]), eqn.params["dimension"]
    stop = g.op("Squeeze", g.ints([out[axis]]), np.array([0], INT))
    values = g.op("Range", np.int64(0), stop, np.int64(1))
    values = g.reshape(values, [out[i] if i == axis else 1 for i in range(len(out))])
    return g.cast(g.op("Expand", values, g.ints(out)), eqn.outvars[0].aval.dtype)


def slice_(g: Graph, eqn: Any, x: Any) -> Any:
    """`Slice`."""
    p = eqn.params
    axes = np.arange(len(p["start_indices"]), dtype=INT)
    steps = g.ints(p["strides"] or [1] * len(axes))
    return g.op("Slice", x, g.ints(p["start_indices"]), g.ints(p["limit_indices"]), axes, steps)


def rev(g: Graph, eqn: Any, x: Any) -> Any:
    """`Slice` with steps of -1."""
    axes = np.array(eqn.params["dimensions"], INT)
    back, least = np.full_like(axes, -1), np.full_like(axes, np.iinfo(INT).min)
    return g.op("Slice", x, back, least, axes, back)


def padded(g: Graph, x: Any, of: Sequence[Any], value: Any, config: Sequence[tuple[int, int, int]]) -> Any:
    """Pad, with negative numbers too. config: low, high, interior of each axis."""
    of = list(of)
    for axis, (_, _, interior) in enumerate(config):
        if interior:
            wide = [*of[: axis + 1], 1, *of[axis + 1 :]]
            x = g.reshape(x, wide)
            pads = np.zeros(2 * len(wide), INT)
            pads[len(wide) + axis + 1] = interior
            x = g.op("Pad", x, pads, value)
            of[axis] = of[axis] * (interior + 1)
            x = g.reshape(x, of)
            of[axis] = of[axis] - interior
            x = g.op("Slice", x, np.array([0], INT), np.array([-interior], INT), np.array([axis], INT))
    pads = np.array([[low for low, _, _ in config], [high for _, high, _ in config]], INT).ravel()
    return g.op("Pad", x, pads, value) if pads.any() else x  # crops where negative


def pad(g: Graph, eqn: Any, x: Any, value: Any) -> Any:
    """See `padded`."""
    config = [(int(low), int(high), int(interior)) for low, high, interior in eqn.params["padding_config"]]
    return padded(g, x, shape(eqn.invars[0]), value, config)


def transpose(g: Graph, eqn: Any, x: Any) -> Any:
    """`Transpose`."""
    perm = list(eqn.params["permutation"])
    return g.op("Transpose", x, perm=[*perm, len(perm)] if is_key(eqn.outvars[0].aval.dtype) else perm)


def reduce_or(g: Graph, eqn: Any, x: Any) -> Any:
    """`ReduceMax` of booleans."""
    return g.cast(g.reduce("ReduceMax", g.cast(x, np.int32), eqn.params["axes"]), bool)


def split(g: Graph, eqn: Any, x: Any) -> Any:
    """`Split`."""
    sizes = np.array(eqn.params["sizes"], INT)
    found = g.op("Split", x, sizes, outputs=len(sizes), axis=eqn.params["axis"])
    return found if len(sizes) > 1 else [found]


def stack(g: Graph, eqn: Any, *x: Any) -> Any:
    """`Concat` along a new axis."""
    axis = eqn.params["axis"]
    return g.op("Concat", *(g.op("Unsqueeze", part, np.array([axis], INT)) for part in x), axis=axis)


def in_float32(g: Graph, v: Any, x: Any) -> Any:
    """x as float32 if it is bfloat16, for which runtimes lack operators; their products are exact in float32."""
    return g.cast(x, np.float32) if v.aval.dtype == jnp.bfloat16 else x


def dot_general(g: Graph, eqn: Any, x: Any, y: Any) -> Any:
    """`Einsum`."""
    x, y = (in_float32(g, v, part) for v, part in zip(eqn.invars, (x, y), strict=True))
    (cx, cy), (bx, by) = eqn.params["dimension_numbers"]
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left = [next(letters) for _ in shape(eqn.invars[0])]
    right = [next(letters) for _ in shape(eqn.invars[1])]
    for i, j in zip((*cx, *bx), (*cy, *by), strict=True):
        right[j] = left[i]
    free = [left[i] for i in range(len(left)) if i not in (*cx, *bx)]
    free += [right[j] for j in range(len(right)) if j not in (*cy, *by)]
    out = "".join([*(left[i] for i in bx), *free])
    found = g.op("Einsum", x, y, equation=f"{''.join(left)},{''.join(right)}->{out}")
    return g.cast(found, eqn.outvars[0].aval.dtype)


def conv(g: Graph, eqn: Any, x: Any, kernel: Any) -> Any:
    """`Conv`, of inputs with zeros between the entries for a transposed convolution."""
    p = eqn.params
    if p["batch_group_count"] != 1:
        raise Unsupported("a convolution with groups of the batch has no translation")
    x, kernel = (in_float32(g, v, part) for v, part in zip(eqn.invars, (x, kernel), strict=True))
    lhs, rhs, out = p["dimension_numbers"]
    spatial = [shape(eqn.invars[0])[i] for i in lhs]
    x = g.op("Transpose", x, perm=lhs)
    interior = [(0, 0, 0)] * 2 + [
        (int(low), int(high), n - 1) for (low, high), n in zip(p["padding"], p["lhs_dilation"], strict=True)
    ]
    x = padded(g, x, spatial, np.float32(0), interior)
    kernel = g.op("Transpose", kernel, perm=rhs)
    made = g.op(
        "Conv",
        x,
        kernel,
        strides=p["window_strides"],
        dilations=p["rhs_dilation"],
        group=p["feature_group_count"],
    )
    return g.cast(g.op("Transpose", made, perm=np.argsort(out).tolist()), eqn.outvars[0].aval.dtype)


def select_n(g: Graph, eqn: Any, which: Any, *cases: Any) -> Any:
    """`Where`."""
    if eqn.invars[0].aval.dtype != bool:
        which = g.cast(which, bool)
    if len(cases) != 2:
        raise Unsupported("a choice of more than two values has no translation")
    off, on = cases
    if eqn.outvars[0].aval.dtype == bool:
        off, on = (g.cast(case, np.int32) for case in cases)
        return g.cast(g.op("Where", which, on, off), bool)
    return g.op("Where", which, on, off)


def logical(kind: str) -> Callable[..., Any]:
    """`And` of booleans, bitwise of integers."""

    def op(g: Graph, eqn: Any, *x: Any) -> Any:
        return g.op(kind if eqn.outvars[0].aval.dtype == bool else f"Bitwise{kind}", *x)

    return op


def argument(kind: str) -> Callable[..., Any]:
    """`ArgMax` or `ArgMin` over one axis."""

    def op(g: Graph, eqn: Any, x: Any) -> Any:
        (axis,) = eqn.params["axes"]
        return g.cast(g.op(kind, x, axis=axis, keepdims=0), eqn.outvars[0].aval.dtype)

    return op


def top_k(g: Graph, eqn: Any, x: Any) -> Any:
    """`TopK` of the last axis."""
    if eqn.params.get("axis", -1) not in (-1, len(shape(eqn.invars[0])) - 1):
        raise Unsupported("top_k over another axis than the last has no translation")
    values, at = g.op("TopK", x, np.array([eqn.params["k"]], INT), outputs=2, axis=-1)
    return [values, g.cast(at, eqn.outvars[1].aval.dtype)]


def sort(g: Graph, eqn: Any, *x: Any) -> Any:
    """`TopK` of all entries, which sorts, and `GatherElements` for further operands."""
    axis = eqn.params["dimension"]
    if eqn.params["num_keys"] != 1:
        raise Unsupported("a sort by several keys has no translation")
    k = g.ints([shape(eqn.invars[0])[axis]])
    first, at = g.op("TopK", x[0], k, outputs=2, axis=axis, largest=0)
    return [first, *(g.op("GatherElements", part, at, axis=axis) for part in x[1:])]


def scan(g: Graph, eqn: Any, *given: Any) -> Any:
    """The operator Scan, whose body sees the constants of the loop in the graph around it."""
    from onnx import helper

    p = eqn.params
    consts, carried = p["num_consts"], p["num_carry"]
    if len(given) == consts + carried:  # ONNX takes the number of steps from an input
        given = (*given, np.zeros(p["length"], np.float32))
    jaxpr, body = p["jaxpr"], g.body()
    names = [body.name() for _ in given[consts:]]
    own = [v.aval.dtype for v in jaxpr.jaxpr.invars]
    found = body.inner(jaxpr, [*given[:consts], *names][: len(own)])
    dtypes = [*own, np.dtype(np.float32)][consts : consts + len(names)]
    inputs = [helper.make_tensor_value_info(n, element(d), None) for n, d in zip(names, dtypes, strict=True)]
    outputs = []
    for value, aval in zip(found, jaxpr.out_avals, strict=True):
        out = body.op("Identity", value)
        outputs.append(helper.make_tensor_value_info(out, element(aval.dtype), None))
    made = helper.make_graph(body.nodes, "body", inputs, outputs, body.constants)
    several = len(found) - carried
    options: dict[str, Any] = {"num_scan_inputs": len(names) - carried}
    if p["reverse"]:
        options |= {"scan_input_directions": [1] * (len(names) - carried), "scan_output_directions": [1] * several}
    results = g.op("Scan", *given[consts:], outputs=len(found), body=made, **options)
    return results if len(found) > 1 else [results]


def not_(g: Graph, eqn: Any, x: Any) -> Any:
    """`Not` of booleans, bitwise of integers."""
    return g.op("Not" if eqn.outvars[0].aval.dtype == bool else "BitwiseNot", x)


def integer_pow(g: Graph, eqn: Any, x: Any) -> Any:
    """Products."""
    y = eqn.params["y"]
    if y == 0:
        return g.op("Pow", x, np.zeros((), eqn.outvars[0].aval.dtype))
    found = x
    for _ in range(abs(y) - 1):
        found = g.op("Mul", found, x)
    return found if y > 0 else g.op("Reciprocal", found)


def reduce_precision(g: Graph, eqn: Any, x: Any) -> Any:
    """`Cast` to bfloat16 and back."""
    if (eqn.params["exponent_bits"], eqn.params["mantissa_bits"]) != (8, 7):
        raise Unsupported("a precision other than that of bfloat16 has no translation")
    return g.cast(g.cast(x, jnp.bfloat16), eqn.outvars[0].aval.dtype)


def round_(g: Graph, eqn: Any, x: Any) -> Any:
    """`Round`, half to even."""
    if eqn.params["rounding_method"] != RoundingMethod.TO_NEAREST_EVEN:
        raise Unsupported("rounding of halves away from zero has no translation")
    return g.op("Round", x)


def clamp(g: Graph, eqn: Any, low: Any, x: Any, high: Any) -> Any:  # noqa: ARG001
    """`Max` and `Min`."""
    return g.op("Min", g.op("Max", x, low), high)


PRIMITIVES: dict[str, Callable[..., Any]] = {
    "and": logical("And"),
    "argmax": argument("ArgMax"),
    "argmin": argument("ArgMin"),
    "bitcast_convert_type": bits_as_float,
    "broadcast_in_dim": broadcast_in_dim,
    "clamp": clamp,
    "concatenate": lambda g, eqn, *x: g.op("Concat", *x, axis=eqn.params["dimension"]),
    "conv_general_dilated": conv,
    "convert_element_type": lambda g, eqn, x: g.cast(x, eqn.params["new_dtype"]),
    "dot_general": dot_general,
    "erf_inv": erf_inv,
    "expm1": lambda g, eqn, x: g.op("Sub", g.op("Exp", x), np.float32(1)),  # noqa: ARG005
    "gather": gather,
    "integer_pow": integer_pow,
    "iota": iota,
    "is_finite": lambda g, eqn, x: g.op("Less", g.op("Abs", x), np.float32(np.inf)),  # noqa: ARG005
    "log1p": lambda g, eqn, x: g.op("Log", g.op("Add", x, np.float32(1))),  # noqa: ARG005
    "ne": lambda g, eqn, x, y: g.op("Not", g.op("Equal", x, y)),  # noqa: ARG005
    "not": not_,
    "or": logical("Or"),
    "pad": pad,
    "random_bits": random_bits,
    "random_split": random_split,
    "reduce_or": reduce_or,
    "reduce_precision": reduce_precision,
    "rem": lambda g, eqn, x, y: g.op("Mod", x, y, fmod=1),  # noqa: ARG005
    "reshape": lambda g, eqn, x: g.reshape(x, shape(eqn.outvars[0])),
    "rev": rev,
    "round": round_,
    "rsqrt": lambda g, eqn, x: g.op("Reciprocal", g.op("Sqrt", x)),  # noqa: ARG005
    "scan": scan,
    "scatter": scatter,
    "select_n": select_n,
    "shift_right_logical": lambda g, eqn, x, by: g.op("Div", x, g.op("Pow", np.int64(2), by)),  # noqa: ARG005
    "slice": slice_,
    "sort": sort,
    "split": split,
    "square": lambda g, eqn, x: g.op("Mul", x, x),  # noqa: ARG005
    "squeeze": lambda g, eqn, x: g.reshape(x, shape(eqn.outvars[0])),
    "stack": stack,
    "tile": lambda g, eqn, x: g.op("Tile", x, g.ints(eqn.params["reps"])),
    "top_k": top_k,
    "transpose": transpose,
}
