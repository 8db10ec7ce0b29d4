"""Transitions State -> State, as pairs of pure functions."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import optax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.reduction import gradient
from jaxae.core.types import Averaged, Extra, Metrics, Params, State

GRADIENT = "gradient of "  # prefix of the gradients' names in a traced step


class Transition(NamedTuple):
    """A pair of pure functions, as in Optax. Exactly one metric is named `loss`: the one that a run reports."""

    init: Callable[[Params], Any]  # params -> optimizer state
    step: Callable[[State, Batch, Key[Array, ""]], tuple[State, Metrics]]


def descend(
    loss: Loss, optimizer: optax.GradientTransformation, wrt: Sequence[str] | None = None, name: str = "loss"
) -> Transition:
    """One optimizer step with the gradient of the mean loss over the batch.

    wrt: the top-level groups of params that are updated (default: all). The others are constants: no gradient is taken
    with respect to them and the optimizer holds no state for them.
    name: metric name of the minimised term.
    ValueError for a group that does not exist, and for a name that another term of the loss has; TypeError for an
    optimizer that is not an Optax transformation.
    """
    if not hasattr(optimizer, "update"):
        raise TypeError(f"{optimizer!r} is not an Optax transformation; pass an instance, such as optax.adam(1e-3)")

    def select(params: Params) -> Params:
        if wrt is None:
            return params
        if missing := set(wrt) - set(params):
            raise ValueError(f"no parameters named {sorted(missing)}; there are {sorted(params)}")
        return {group: params[group] for group in wrt}

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        def objective(selected: Params, part: Batch) -> tuple[Terms, Extra]:
            return loss({"params": {**state.params, **selected}, **state.extra}, part, key)

        selected = select(state.params)
        grads, metrics, updates = gradient(objective, selected, batch)
        grads = _named(grads)
        deltas, opt_state = optimizer.update(grads, state.opt_state, selected)
        params = {**state.params, **optax.apply_updates(selected, deltas)}
        if name != "loss":
            if name in metrics:
                raise ValueError(f"name={name}: the loss already has a term of this name; choose another")
            metrics[name] = metrics.pop("loss")
        new = state._replace(params=params, opt_state=opt_state, extra={**state.extra, **updates})
        return new, metrics

    return Transition(lambda params: optimizer.init(select(params)), step)


def alternate(*transitions: Transition) -> Transition:
    """Several transitions in turn on the same batch, each with its own optimizer state and noise.

    Each starts from the state after the previous one. ValueError if two report a metric of the same name.
    """

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        opt_states: list[Any] = []
        metrics: Metrics = {}
        for i, (transition, opt_state) in enumerate(zip(transitions, state.opt_state, strict=True)):
            state, new = transition.step(state._replace(opt_state=opt_state), batch, jax.random.fold_in(key, i))
            if both := metrics.keys() & new.keys():
                raise ValueError(f"two transitions report {sorted(both)}; give their metrics different names")
            opt_states.append(state.opt_state)
            metrics |= new
        return state._replace(opt_state=tuple(opt_states)), metrics

    return Transition(lambda params: tuple(t.init(params) for t in transitions), step)


def binarized(transition: Transition) -> Transition:
    """The transition with dynamic binarization: each step resamples every pixel as white with probability x."""

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        pixels, rest = jax.random.split(key)
        white = jax.vmap(jax.random.bernoulli)(batch.keys(pixels), batch.x)
        return transition.step(state, batch.replace(x=white.astype(batch.x.dtype)), rest)

    return transition._replace(step=step)


def averaged(transition: Transition, decay: float) -> Transition:
    """The transition with an exponential moving average of the parameters, for evaluation and `load`.

    average <- decay * average + (1 - decay) * params after every step, from the initial parameters: exponential weights
    instead of the equal ones of Polyak & Juditsky 1992. ValueError for a decay that is not in (0, 1).
    """
    if not 0 < decay < 1:
        raise ValueError(f"ema={decay} must be above 0 and below 1")

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        new, metrics = transition.step(state._replace(opt_state=state.opt_state.inner), batch, key)
        moved = optax.incremental_update(new.params, state.opt_state.params, 1 - decay)
        return new._replace(opt_state=Averaged(new.opt_state, moved)), metrics

    return Transition(lambda params: Averaged(transition.init(params), params), step)


def phases(*parts: tuple[int, Transition]) -> Transition:
    """Transitions in sequence: each for its number of steps, the last one until training ends.

    Each starts from the parameters after the previous one. Its optimizer counts its own steps, so that a learning rate
    schedule spans its phase. Reports the metrics that all transitions report.
    """
    starts = list(accumulate(steps for steps, _ in parts[:-1]))

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        reported = [jax.eval_shape(t.step, state._replace(opt_state=o), batch, key)[1] for (_, t), o in pairs(state)]
        common = set.intersection(*(set(metrics) for metrics in reported))

        def part(i: int) -> Callable[[State], tuple[State, Metrics]]:
            def run(state: State) -> tuple[State, Metrics]:
                new, metrics = parts[i][1].step(state._replace(opt_state=state.opt_state[i]), batch, key)
                opt_states = (*state.opt_state[:i], new.opt_state, *state.opt_state[i + 1 :])
                return new._replace(opt_state=opt_states), {name: metrics[name] for name in sorted(common)}

            return run

        at = _of_all_seeds(state.step)
        now = sum((at >= start).astype(int) for start in starts) if starts else 0
        return jax.lax.switch(now, [part(i) for i in range(len(parts))], state)

    def pairs(state: State) -> Any:
        return zip(parts, state.opt_state, strict=True)

    return Transition(lambda params: tuple(t.init(params) for _, t in parts), step)


def _named(grads: Params) -> Params:
    """Name the gradients in the traced step, at no cost in the compiled one."""

    def name(path: Any, leaf: jax.Array) -> jax.Array:
        return checkpoint_name(leaf, GRADIENT + jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(name, grads)


@custom_vmap
def _of_all_seeds(step: jax.Array) -> jax.Array:
    """The step count without its axis of seeds. All seeds share it, so `switch` computes a single phase."""
    return step


@_of_all_seeds.def_vmap
def _(size: int, mapped: list[bool], step: jax.Array) -> tuple[jax.Array, bool]:  # noqa: ARG001
    return step[0] if mapped[0] else step, False
