"""`gather` and `scatter` of JAX in an ONNX graph, by the index of every entry."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

from jaxae.run.onnx_graph import INT, Graph, Name, Unsupported, element, shape


def starts_of(g: Graph, at: Any, of: Sequence[Any], sizes: Sequence[int], mode: Any) -> tuple[Any, Any]:
    """Start indices, int64, clamped; and whether they were within bounds, if some may be filled instead."""
    last = np.array([n - size for n, size in zip(of, sizes, strict=True)], INT)
    known = not isinstance(at, Name) and bool(np.all((np.asarray(at) >= 0) & (np.asarray(at) <= last)))
    at = g.op("Cast", at, to=element(np.dtype(INT)))
    held = g.op("Min", g.op("Max", at, np.int64(0)), last)
    if mode == GatherScatterMode.FILL_OR_DROP and not known:
        same = g.cast(g.op("Equal", at, held), np.int32)
        return held, g.cast(g.op("ReduceMin", same, np.array([-1], INT), keepdims=0), bool)
    return held, None


def places(
    g: Graph, at: Any, batch: Sequence[Any], sizes: Sequence[int], dims: tuple[Any, ...], out: Sequence[Any]
) -> Any:
    """Indices [*out, rank] into the operand. batch: dimensions of the indices; sizes: of a window."""
    offset, collapsed, start_map, operand_batch, indices_batch = dims
    rank, whole = len(sizes), len(out)
    where = [i for i in range(whole) if i not in offset]  # the axes of the indices in the output
    windowed = [d for d in range(rank) if d not in (*collapsed, *operand_batch)]
    parts = []
    for d in range(rank):
        part: Any = np.zeros([1] * whole, INT)
        if d in start_map:
            own = g.op("Gather", at, np.int64(start_map.index(d)), axis=-1)
            part = g.reshape(own, [batch[where.index(i)] if i in where else 1 for i in range(whole)])
        if d in operand_batch:
            axis = where[indices_batch[operand_batch.index(d)]]
            part = g.reshape(range_of(g, out[axis]), [out[i] if i == axis else 1 for i in range(whole)])
        if d in windowed and sizes[d] != 1:
            axis = offset[windowed.index(d)]
            own = g.reshape(range_of(g, sizes[d]), [sizes[d] if i == axis else 1 for i in range(whole)])
            part = g.op("Add", part, own)
        parts.append(g.op("Unsqueeze", g.op("Expand", part, g.ints(out)), np.array([-1], INT)))
    return g.op("Concat", *parts, axis=-1)


def range_of(g: Graph, stop: Any) -> Any:
    """0 to stop - 1, int64."""
    if isinstance(stop, int):
        return np.arange(stop, dtype=INT)
    return g.op("Range", np.int64(0), g.op("Squeeze", g.ints([stop]), np.array([0], INT)), np.int64(1))


def gather(g: Graph, eqn: Any, x: Any, at: Any) -> Any:
    """`GatherND` of every entry."""
    p, dims = eqn.params, eqn.params["dimension_numbers"]
    of, batch, out = shape(eqn.invars[0]), shape(eqn.invars[1])[:-1], shape(eqn.outvars[0])
    own = [(of[d], p["slice_sizes"][d]) for d in dims.start_index_map]
    held, within = starts_of(g, at, [n for n, _ in own], [n for _, n in own], p["mode"])
    numbers: tuple[Any, ...] = (dims.offset_dims, dims.collapsed_slice_dims, dims.start_index_map)
    numbers += (dims.operand_batching_dims, dims.start_indices_batching_dims)
    found = g.op("GatherND", x, places(g, held, batch, p["slice_sizes"], numbers, out))
    if within is None:
        return found
    where = [i for i in range(len(out)) if i not in dims.offset_dims]
    mask = g.reshape(within, [batch[where.index(i)] if i in where else 1 for i in range(len(out))])
    dtype = eqn.outvars[0].aval.dtype
    if dtype not in (np.float32, np.int32):
        raise Unsupported(f"an index out of bounds of {dtype} has no translation")
    missing = np.nan if dtype == np.float32 else np.iinfo(dtype).min
    fill = np.array(missing if p["fill_value"] is None else p["fill_value"], dtype)
    return g.op("Where", mask, found, fill)


def scatter(g: Graph, eqn: Any, x: Any, at: Any, updates: Any) -> Any:
    """`ScatterND`; indices are taken to be within bounds."""
    dims = eqn.params["dimension_numbers"]
    of, batch, out = shape(eqn.invars[0]), shape(eqn.invars[1])[:-1], shape(eqn.invars[2])
    windowed = [d for d in range(len(of)) if d not in (*dims.inserted_window_dims, *dims.operand_batching_dims)]
    sizes = [1] * len(of)
    for d, axis in zip(windowed, dims.update_window_dims, strict=True):
        sizes[d] = out[axis]
    index = dims.scatter_dims_to_operand_dims
    held, _ = starts_of(g, at, [of[d] for d in index], [sizes[d] for d in index], None)
    numbers: tuple[Any, ...] = (dims.update_window_dims, dims.inserted_window_dims, index)
    numbers += (dims.operand_batching_dims, dims.scatter_indices_batching_dims)
    return g.op("ScatterND", x, places(g, held, batch, sizes, numbers, out), updates)
