"""Where training diverged. A dispatch only says that some number is not finite: it is done again to find which."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxae.errors import Diverged
from jaxae.step import observed


def explain(
    train: Callable[..., Any], one: Callable[..., Any], args: tuple[Any, ...], size: int, steps: int, seeds: range
) -> Diverged:
    """The first step of a dispatch, and the term, that is not finite: a metric, a gradient, or a part of the state.

    train: the compiled function, whose `steps` steps from `args` end in what is not finite; one: the function itself,
    for one seed on one device. size: of a batch.
    """
    low, high = 0, steps  # finite after low steps, not after high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if finite(*train(*args, middle)[1:]) else (low, middle)
    state, totals, whole = jax.device_get(train(*args, high))
    step = int(np.ravel(state.step)[0]) - 1
    for name, bad in sorted(totals["bad"].items(), key=lambda item: item[0] == "loss"):  # a part before the whole
        if np.any(bad == step):
            return diverged(name, step, seeds[int(np.argmax(bad == step))])
    i = int(np.argmin(whole))

    def pick(tree: Any, has_seeds: bool = len(seeds) > 1) -> Any:
        return jax.tree.map(lambda leaf: leaf[i], tree) if has_seeds else tree

    found: list[str] = []
    (before, before_totals, _), (_, _, data, order, key, begin) = jax.device_get(train(*args, low)), args
    with observed(lambda gradient: found.extend(f"the gradient of {path}" for path in _not_finite(gradient))):
        data, order = pick(jax.device_get(data), data.x.ndim == 3), pick(jax.device_get(order), order.ndim == 2)
        again = (pick(before), pick(before_totals), data, order, pick(key), begin + low * size, 1)
        jax.block_until_ready(jax.jit(one)(*again))
        jax.effects_barrier()
    found += [*_not_finite(pick(state)), *(f"the epoch's total {path}" for path in _not_finite(pick(totals)))]
    return diverged(found[0], step, seeds[i])


def finite(totals: Any, whole: Any) -> bool:
    """Whether all is well after a dispatch."""
    return bool(np.all(whole)) and all(np.all(bad < 0) for bad in totals["bad"].values())


def check(metrics: dict[str, Any], step: int, seeds: range) -> None:
    """Diverged for a metric of an evaluation that is not finite."""
    for name, value in metrics.items():
        if not np.all(np.isfinite(value)):
            raise diverged(name, step, seeds[int(np.argmin(np.isfinite(value)))])


def diverged(term: str, step: int, seed: int) -> Diverged:
    """The line that is said."""
    return Diverged(f"{term} is not finite at step {step} (seed {seed}); what was saved before is kept: lower --lr?")


def _not_finite(tree: Any) -> Iterable[str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not np.isfinite(leaf).all()
    ]
