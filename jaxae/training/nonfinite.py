"""Where training diverged. A dispatch only says that some number is not finite: it is done again to find which."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from jaxae.core.step import GRADIENT
from jaxae.errors import Diverged


def explain(
    train: Callable[..., Any], one: Callable[..., Any], args: tuple[Any, ...], size: int, steps: int, seeds: range
) -> Diverged:
    """The first step of a dispatch, and the term, that is not finite: a metric, a gradient, or a part of the state.

    train: the compiled function, whose `steps` steps from `args` end in what is not finite; one: as `epoch.step` makes
    it, for one seed on one device. size: of a batch.
    """
    low, high = 0, steps  # finite after low steps, not after high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if finite(*train(*args, middle)[1:]) else (low, middle)
    state, totals, all_finite = jax.device_get(train(*args, high))
    step = int(np.ravel(state.step)[0]) - 1
    for name, bad in sorted(totals["bad"].items(), key=lambda item: item[0] == "loss"):  # a part before the whole
        if np.any(bad == step):
            return diverged(name, step, seeds[int(np.argmax(bad == step))])
    i = int(np.argmin(all_finite))

    def pick(tree: Any, has_seeds: bool = len(seeds) > 1) -> Any:
        return jax.tree.map(lambda leaf: leaf[i], tree) if has_seeds else tree

    before, (_, _, data, order, key, begin) = jax.device_get(train(*args, low))[0], args
    data, order = pick(jax.device_get(data), data.x.ndim == 3), pick(jax.device_get(order), order.ndim == 2)
    values = named_values(one, pick(before), data, order, pick(key), begin + low * size)
    found = [name for name, value in values if name.startswith(GRADIENT) and not np.isfinite(value).all()]
    found += [*_not_finite(pick(state)), *(f"the epoch's total {path}" for path in _not_finite(pick(totals)))]
    return diverged(found[0], step, seeds[i])


def named_values(f: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
    """What `jax.ad_checkpoint.checkpoint_name` has named within f(*args), in the order of its computation.

    Evaluates the traced function equation by equation, within the branch of a `switch` that is taken.
    """
    found: list[tuple[str, Any]] = []

    def evaluate(closed: ClosedJaxpr, values: list[Any]) -> list[Any]:
        jaxpr = closed.jaxpr
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *values), strict=True))

        def value(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            inputs = [value(atom) for atom in equation.invars]
            primitive, params = equation.primitive, equation.params
            if primitive.name == "name":
                found.append((params["name"], inputs[0]))
            if primitive.name == "cond":
                branches = params["branches"]
                outputs = evaluate(branches[min(max(int(inputs[0]), 0), len(branches) - 1)], inputs[1:])
            elif primitive.name in ("jit", "pjit"):
                outputs = evaluate(params["jaxpr"], inputs)
            else:
                outputs = primitive.bind(*inputs, **primitive.get_bind_params(params))
                outputs = outputs if primitive.multiple_results else [outputs]
            known.update(zip(equation.outvars, outputs, strict=True))
        return [value(atom) for atom in jaxpr.outvars]

    evaluate(jax.make_jaxpr(f)(*args), jax.tree.leaves(args))
    return found


def finite(totals: Any, all_finite: Any) -> bool:
    """Whether all numbers are finite after a dispatch."""
    return bool(np.all(all_finite)) and all(np.all(bad < 0) for bad in totals["bad"].values())


def check(metrics: dict[str, Any], step: int, seeds: range) -> None:
    """Diverged for a metric of an evaluation that is not finite."""
    for name, value in metrics.items():
        if not np.all(np.isfinite(value)):
            raise diverged(name, step, seeds[int(np.argmin(np.isfinite(value)))])


def diverged(term: str, step: int, seed: int) -> Diverged:
    """The error that names the term."""
    return Diverged(f"{term} is not finite at step {step} (seed {seed})")


def _not_finite(tree: Any) -> Iterable[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not np.isfinite(leaf).all()
    ]
