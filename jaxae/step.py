"""State -> State: the whole training vocabulary."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Int, Key

from jaxae.batch import keys
from jaxae.reduction import gradient
from jaxae.types import Batch, Loss, Metrics, Params, State

_observers: list[Callable[[Params], None]] = []


class Transition(NamedTuple):
    """A way to train, as a pair of pure functions. One of the metrics is named `loss`: the one that a run watches."""

    init: Callable[[Params], Any]  # params -> optimizer state
    step: Callable[[State, Batch, Key[Array, ""]], tuple[State, Metrics]]


def descend(loss: Loss, tx: optax.GradientTransformation, wrt: Sequence[str] | None = None) -> Transition:
    """One optimizer step down the gradient of the loss.

    wrt: the top-level groups of params that move (all, without it). The others are constants: no gradient is taken
    with respect to them and the optimizer holds no state for them. ValueError for a group that does not exist.
    """

    def moving(params: Params) -> Params:
        if wrt is None:
            return params
        if missing := set(wrt) - set(params):
            raise ValueError(f"no parameters named {sorted(missing)}; there are {sorted(params)}")
        return {name: params[name] for name in wrt}

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        def objective(moved: Params, part: Batch) -> Any:
            return loss({**state.params, **moved}, state.extra, part, key)

        group = moving(state.params)
        grads, (extra, metrics) = gradient(objective, group, batch)
        for observer in _observers:
            jax.debug.callback(observer, grads)
        updates, opt_state = tx.update(grads, state.opt_state, group)
        params = {**state.params, **optax.apply_updates(group, updates)}
        return state._replace(params=params, opt_state=opt_state, extra=extra), metrics

    return Transition(lambda params: tx.init(moving(params)), step)


@contextmanager
def observed(observer: Callable[[Params], None]) -> Iterator[None]:
    """Steps that are traced meanwhile hand every gradient to the observer, on the host. Otherwise it costs nothing."""
    _observers.append(observer)
    try:
        yield
    finally:
        _observers.remove(observer)


def sequence(*transitions: Transition) -> Transition:
    """Several transitions in turn on the same batch, each with its own optimizer state and noise.

    Each sees the state that the one before has left. ValueError if two report a metric of the same name.
    """

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        opt_states: list[Any] = []
        metrics: Metrics = {}
        for i, (transition, opt_state) in enumerate(zip(transitions, state.opt_state, strict=True)):
            state, new = transition.step(state._replace(opt_state=opt_state), batch, jax.random.fold_in(key, i))
            if both := metrics.keys() & new.keys():
                raise ValueError(f"two transitions report {sorted(both)}: give their metrics different names")
            opt_states.append(state.opt_state)
            metrics |= new
        return state._replace(opt_state=tuple(opt_states)), metrics

    return Transition(lambda params: tuple(t.init(params) for t in transitions), step)


def scheduled(transition: Callable[[Int[Array, ""]], Transition]) -> Transition:
    """A transition that changes with the step, as `lambda step: descend(loss_with(weight(step)), tx)`.

    Its optimizer state is that of the first step: only numbers may depend on the step.
    """

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        return transition(state.step).step(state, batch, key)

    return Transition(lambda params: transition(jnp.int32(0)).init(params), step)


def binarized(transition: Transition) -> Transition:
    """The transition on images drawn anew in every step, each pixel white with its own probability."""

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        drawing, rest = jax.random.split(key)
        white = jax.vmap(jax.random.bernoulli)(keys(drawing, batch), batch.x)
        return transition.step(state, batch._replace(x=white.astype(batch.x.dtype)), rest)

    return transition._replace(step=step)


def phases(*parts: tuple[int, Transition]) -> Transition:
    """Transitions one after the other: each for its number of steps, the last one to the end.

    Each sees the parameters that the one before has left; the metrics are those that all report.
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


@custom_vmap
def _of_all_seeds(step: jax.Array) -> jax.Array:
    """The step, without an axis of seeds, which are all at the same: then one phase is computed, not every one."""
    return step


@_of_all_seeds.def_vmap
def _(size: int, mapped: list[bool], step: jax.Array) -> tuple[jax.Array, bool]:  # noqa: ARG001
    return step[0] if mapped[0] else step, False
