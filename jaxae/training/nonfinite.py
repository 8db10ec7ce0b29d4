"""Find where training diverged, by repeating a dispatch that returned a non-finite number."""

import re
from collections.abc import Callable
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxae.core.reduction import TERM
from jaxae.core.step import GRADIENT
from jaxae.core.types import Generator
from jaxae.errors import Diverged
from jaxae.training import epoch


def explain(
    train: Callable[..., Any],
    one: Callable[..., Any],
    args: tuple[Any, ...],
    size: int,
    steps: int,
    seeds: range,
    complete: tuple[Any, Any],
) -> Diverged:
    """Find the first non-finite step of a dispatch, and its term: a metric, a gradient, or a leaf of the state.

    train: the compiled function; its `steps` steps from `args` give a non-finite number. one: from `epoch.step`, for
    one seed on one device. size: batch size. complete: data and order of `args`, as one device takes them.
    """
    low, high = 0, steps  # finite after low steps, not after high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if finite(*train(*args, middle)[1:]) else (low, middle)
    state, totals, all_finite = jax.device_get(train(*args, high))
    step = int(np.ravel(state.step)[0]) - 1
    bad = {name: where == step for name, where in totals["bad"].items() if np.any(where == step)}
    terms = sorted(bad, key=lambda name: name == "loss")  # other terms before the loss
    i = int(np.argmax(bad[terms[0]])) if terms else int(np.argmin(all_finite))

    def pick(tree: Any, has_seeds: bool = len(seeds) > 1) -> Any:
        return jax.tree.map(lambda leaf: leaf[i], tree) if has_seeds else tree

    (before, *_), (data, order), (key, begin) = jax.device_get(train(*args, low)), complete, args[4:]
    first = epoch.signed(int(begin) + low * size)
    of_data, of_order = epoch.have_seeds(data, order)
    data, order, key = pick(data, of_data), pick(order, of_order), pick(key)
    if isinstance(data, Generator):
        rows: Any = np.arange(size)
        examples = epoch.drawn(data, order, first, rows)
    else:
        rows, examples = np.asarray(order)[first:][:size], data
    step_inputs = {
        "state": pick(before),
        "batch": {name: np.asarray(part)[rows] for name, part in examples._asdict().items() if part is not None},
        "key": np.asarray(jax.random.key_data(key)),
        "seed": seeds[i],
    }
    if terms:
        return diverged(terms[0], step, seeds[i], step_inputs)
    values = named_values(one, pick(before), data, order, key, first)
    found = [name for name, value in values if name.startswith(GRADIENT) and not np.isfinite(value).all()]
    found += [*nonfinite_leaves(pick(state)), *(f"the epoch's total {path}" for path in nonfinite_leaves(pick(totals)))]
    return diverged(found[0], step, seeds[i], step_inputs)


def named_values(f: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
    """Named intermediate values of f(*args), in order: terms, gradients, inputs and outputs of layers.

    Terms and gradients are named by `jax.ad_checkpoint.checkpoint_name`, layers by Flax's scopes: an output of a layer
    is a value that the forward pass uses outside of it, an input a value that was computed outside of all layers.
    Evaluates the traced function equation by equation, within the selected branch of a `switch`.
    """
    found: list[tuple[str, Any]] = []

    def evaluate(closed: ClosedJaxpr, values: list[Any]) -> list[Any]:
        jaxpr = closed.jaxpr
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *values), strict=True))
        used: dict[Any, set[str | None]] = {}  # variable -> layers of the forward pass that take it
        for equation in jaxpr.eqns:
            if (layer := _layer(equation)) is not None:
                for atom in equation.invars:
                    if not isinstance(atom, Literal):
                        used.setdefault(atom, set()).add(layer)

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            inputs = [value(atom) for atom in equation.invars]
            primitive, params, layer = equation.primitive, equation.params, _layer(equation)
            if primitive.name == "name":
                found.append((params["name"], inputs[0]))
            if primitive.name == "cond":
                branches = params["branches"]
                outputs = evaluate(branches[min(max(int(inputs[0]), 0), len(branches) - 1)], inputs[1:])
            elif primitive.name in ("jit", "pjit") and not layer:
                outputs = evaluate(params["jaxpr"], inputs)
            else:
                outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
                outputs = outputs if primitive.multiple_results else [outputs]
            known.update(zip(equation.outvars, outputs, strict=True))
            for variable, output in zip(equation.outvars, outputs, strict=True):
                takers = used.get(variable, set()) - {layer}
                if layer and takers:
                    found.append((f"the output of {layer}", output))
                elif layer == "" and (layers := sorted(filter(None, takers))):
                    found.append((f"the input of {layers[0]}", output))
        return [value(atom) for atom in jaxpr.outvars]

    with jax.debug_key_reuse(False):  # equations reuse the key within a random function
        evaluate(jax.make_jaxpr(f)(*args), jax.tree.leaves(args))
    return found


def _layer(equation: Any) -> str | None:
    """Flax's scope of an equation of the forward pass, "" outside of all layers; None in the backward pass."""
    stack = str(equation.source_info.name_stack)
    if "transpose(" in stack:
        return None
    while (plain := re.sub(r"\b(?:jvp|vmap)\(([^()]*)\)", r"\1", stack)) != stack:
        stack = plain
    return stack


def find_nonfinite(f: Callable[..., Any], *args: Any) -> list[str]:
    """Names of the non-finite values of f(*args), in order of computation; the loss after its terms."""
    found = [name for name, value in named_values(f, *args) if not _finite(value)]
    groups = groupby(found, lambda name: name.startswith(TERM))
    return list(dict.fromkeys(name for _, group in groups for name in sorted(group, key=_is_loss)))


def _is_loss(name: str) -> bool:
    return name == f"{TERM}loss"


def _finite(value: Any) -> bool:
    return not jnp.issubdtype(value.dtype, jnp.inexact) or bool(np.isfinite(value).all())


def finite(totals: Any, all_finite: Any) -> bool:
    """Whether all numbers are finite after a dispatch."""
    return bool(np.all(all_finite)) and all(np.all(bad < 0) for bad in totals["bad"].values())


def check_finite(metrics: dict[str, Any], step: int, seeds: range) -> None:
    """Raise Diverged for a non-finite metric of an evaluation."""
    for name, value in metrics.items():
        if not np.all(np.isfinite(value)):
            raise diverged(name, step, seeds[int(np.argmin(np.isfinite(value)))])


def diverged(term: str, step: int, seed: int, step_inputs: dict[str, Any] | None = None) -> Diverged:
    """The error that names the term."""
    return Diverged(f"{term} is not finite at step {step} (seed {seed})", step_inputs)


def nonfinite_leaves(tree: Any) -> list[str]:
    """Paths of the non-finite leaves of a tree."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not np.isfinite(leaf).all()
    ]
