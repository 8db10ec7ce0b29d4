"""State -> State: the whole training vocabulary."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Key

from jaxae.batch import average
from jaxae.types import Batch, Loss, Metrics, Params, State


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
        def objective(moved: Params) -> Any:
            return loss({**state.params, **moved}, state.extra, batch, key)

        group = moving(state.params)
        grads, (extra, metrics) = jax.grad(objective, has_aux=True)(group)
        updates, opt_state = tx.update(average(grads), state.opt_state, group)
        params = {**state.params, **optax.apply_updates(group, updates)}
        return state._replace(params=params, opt_state=opt_state, extra=extra), metrics

    return Transition(lambda params: tx.init(moving(params)), step)


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
