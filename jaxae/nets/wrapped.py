"""Nets of other libraries as Flax Linen modules: Flax NNX, Equinox, or a pair of pure functions."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxae.nets.layers import Keys, layer_keys

Place: TypeAlias = tuple[str, str]  # (collection, name) of an array
Arrays: TypeAlias = dict[Place, Any]
EXAMPLES = "examples"  # mapped axis


class Net(NamedTuple):
    """A net without its arrays."""

    arrays: Arrays  # their shapes
    join: Callable[..., Any]  # (arrays) -> net; for NNX (arrays, key of its noise) -> module
    noisy: bool  # whether an NNX module has streams of random numbers
    nnx: bool


def wrap(make: Callable[[Any], Any], apply: Callable[..., Any] | None = None, *, noise: bool = False) -> "Wrapped":
    """Wrap a net of another library as a Flax Linen module, for use as encoder or decoder.

    make: a function of a key that returns the net: an `nnx.Module`, such as `lambda key: nnx.Linear(784, 10,
    rngs=nnx.Rngs(key))`, or a pytree with arrays, such as an Equinox module, or the parameters of a pair of pure
    functions (make, apply).
    apply: (net, x [B, *D]) -> [B, *Z]; default: net(x) for NNX, and for a pytree net(x) of one example, as in Equinox.
    noise: whether a third argument of `apply` is a key per example [B] in training, and None otherwise.

    Floating-point arrays become parameters, named by their paths; other arrays become the collection `constants`. NNX
    modules are in training mode in training, with a key per example; `nnx.BatchNorm` uses statistics of the global
    batch. Their other variables become collections, as in `nnx.bridge.ToLinen`.
    ValueError for `noise` without `apply`; when the module is called, for `apply` with an NNX module, and for two
    arrays with the same name.
    """
    if noise and apply is None:
        raise ValueError("noise=True has no effect without apply; pass a function (net, x, keys)")
    return Wrapped(make, apply, noise)


class Wrapped(nn.Module):
    """See `wrap`."""

    make: Callable[[Any], Any]
    function: Callable[..., Any] | None
    noise: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B *D"], keys: Keys | None = None, axis: str | None = None
    ) -> Float[Array, "B *Z"]:
        new: Arrays = {}
        if self.is_initializing():
            new = arrays_of(self.make(self.make_rng("params")))
        net = shapes(self.make)
        if net.nnx and self.function is not None:
            raise ValueError("apply has no effect on an NNX module; omit it, and define __call__ in the module")
        found = {place: self.variable(*place, lambda place=place: new[place]) for place in net.arrays}
        arrays = {place: variable.value for place, variable in found.items()}
        own = None if keys is None else layer_keys(keys, self.path)
        if not net.nnx:
            return self._apply(net.join(arrays), x, own)
        y, updates = apply_nnx(net, arrays, x, own, axis)
        for place, value in updates.items():
            if own is not None and place[0] != "params" and self.is_mutable_collection(place[0]):
                found[place].value = value
        return y

    def _apply(self, net: Any, x: jax.Array, keys: Keys | None) -> jax.Array:
        if self.function is None:
            return jax.vmap(net)(x)
        return self.function(net, x, keys) if self.noise else self.function(net, x)


def apply_nnx(
    net: Net, arrays: Arrays, x: Float[Array, "B *D"], keys: Keys | None, axis: str | None
) -> tuple[Float[Array, "B *Z"], Arrays]:
    """The result of an NNX module, and its arrays afterwards. keys: one per example in training, otherwise None."""
    from flax import nnx

    def run(x: jax.Array, key: Key[Array, ""] | None, axes: Any) -> tuple[jax.Array, Arrays]:
        module = net.join(arrays, jax.random.key(0) if key is None else key)
        module.eval() if keys is None else module.train()
        module.set_attributes(nnx.BatchNorm, axis_name=axes, raise_if_not_found=False)
        y = module(x)
        after = arrays_of(module)
        return y, {place: after[place] for place in arrays}

    if keys is None or not net.noisy:
        return run(x, None, None if keys is None else axis)
    axes = EXAMPLES if axis is None else (EXAMPLES, axis)

    def one(x: jax.Array, key: Key[Array, ""]) -> tuple[jax.Array, Arrays]:
        return run(x[None], key, axes)

    y, after = jax.vmap(one, axis_name=EXAMPLES, out_axes=(0, None))(x, keys)
    return y[:, 0], after


def shapes(make: Callable[[Any], Any]) -> Net:
    """The net that `make` returns, without its arrays."""
    found: list[Net] = []

    def arrays(key: Key[Array, ""]) -> Arrays:
        net = make(key)
        found.append(_module(net) if _is_nnx(net) else _tree(net))
        return arrays_of(net)

    of = jax.eval_shape(arrays, jax.random.key(0))
    return found[0]._replace(arrays=of)


def arrays_of(net: Any) -> Arrays:
    """The arrays of a net, without its random number streams. ValueError for two with the same name."""
    arrays = _variables(net)[0] if _is_nnx(net) else _leaves(net)[0]
    found = dict(arrays)
    if len(found) < len(arrays):
        raise ValueError(
            f"two arrays of the net have the same name; rename one of {', '.join(sorted(name for _, name in found))}"
        )
    return found


def _is_nnx(net: Any) -> bool:
    if "flax.nnx" not in sys.modules:  # its import takes time
        return False
    from flax import nnx

    return isinstance(net, nnx.Module)


def _leaves(tree: Any) -> tuple[list[tuple[Place, Any]], list[Any], Any]:
    """The arrays by place; all leaves, with places instead of arrays; the structure."""
    pairs, structure = jax.tree_util.tree_flatten_with_path(tree)
    arrays, leaves = [], []
    for path, leaf in pairs:
        if isinstance(leaf, jax.Array | np.ndarray):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
            place = ("params" if jnp.issubdtype(leaf.dtype, jnp.floating) else "constants", name)
            arrays.append((place, leaf))
            leaves.append(_At(place))
        else:
            leaves.append(leaf)
    return arrays, leaves, structure


class _At(NamedTuple):
    place: Place


def _tree(tree: Any) -> Net:
    _, leaves, structure = _leaves(tree)

    def join(arrays: Arrays) -> Any:
        return structure.unflatten([arrays[leaf.place] if isinstance(leaf, _At) else leaf for leaf in leaves])

    return Net({}, join, noisy=False, nnx=False)


def _variables(module: Any) -> tuple[list[tuple[Place, Any]], list[Any], list[Any], Any]:
    """The arrays by place; the variables that hold them and those of random numbers, both with paths; the graph."""
    from flax import nnx

    graph, *states = nnx.split(module, nnx.RngState, ...)
    noise, rest = (list(nnx.to_flat_state(state)) for state in states)
    arrays = []
    for path, variable in rest:
        of_params = isinstance(variable, nnx.Param)
        kind = "params" if of_params else nnx.variable_name_from_type(type(variable), allow_register=True)
        arrays.append(((kind, ".".join(map(str, path))), variable.get_value()))
    return arrays, rest, noise, graph


def _module(module: Any) -> Net:
    from flax import nnx

    arrays, rest, noise, graph = _variables(module)
    # Without their values, which belong to this trace.
    empty = [(path, variable.replace(None), place) for (path, variable), (place, _) in zip(rest, arrays, strict=True)]
    streams = [(path, variable.replace(None), variable.shape) for path, variable in noise]

    def join(arrays: Arrays, key: Key[Array, ""]) -> Any:
        states = [(path, variable.replace(arrays[place])) for path, variable, place in empty]
        for number, (path, variable, shape) in enumerate(streams):
            value = jnp.zeros(shape, jnp.uint32)  # a count
            if isinstance(variable, nnx.RngKey):
                value = jax.random.split(jax.random.fold_in(key, number), shape)
            states.append((path, variable.replace(value)))
        return nnx.merge(graph, nnx.from_flat_state(states))

    return Net({}, join, noisy=bool(streams), nnx=True)
