"""Model selection and early stopping by the validation loss."""

from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.core.types import State
from jaxae.training.records import OTHERS, Record, each, fields, names

Keep = Literal["last", "best"]


class Selection(NamedTuple):
    """Model selection and early stopping.

    keep: the state of the last epoch, or of the epoch with the smallest validation loss. stop_after: epochs without
    a smaller validation loss after which training stops (0: never).
    """

    keep: Keep = "last"
    stop_after: int = 0

    @property
    def needs_validation(self) -> bool:
        """Whether the validation split is needed."""
        return self.keep == "best" or self.stop_after > 0


class SelectionState(NamedTuple):
    """The state to return so far, on the host. With several seeds every leaf has a leading axis of seeds.

    Seeds are selected and stopped independently.
    """

    state: State
    epoch: Int[np.ndarray, "*S"]  # of the state, counted from 1; 0 before the first evaluation
    loss: Float[np.ndarray, "*S"]  # smallest validation loss
    best: Int[np.ndarray, "*S"]  # its epoch
    stopped: Bool[np.ndarray, "*S"]  # whether training of this seed has ended


def init(state: State) -> SelectionState:
    """The state of the selection before the first epoch."""
    steps = np.zeros(np.shape(state.step), np.int32)
    return SelectionState(jax.device_get(state), steps, np.full(steps.shape, np.inf, np.float32), steps, steps > 0)


def shapes(state: State) -> SelectionState:
    """Shapes and dtypes of the result of `init`, from those of a state."""
    seeds = state.step.shape
    count, number, flag = (jax.ShapeDtypeStruct(seeds, dtype) for dtype in (np.int32, np.float32, np.bool_))
    return SelectionState(state, count, number, count, flag)  # type: ignore[arg-type]


def update(
    kept: SelectionState, state: State, epoch: int, loss: Float[Any, "*S"], selection: Selection
) -> SelectionState:
    """Update with the state and the validation loss of an epoch, counted from 1."""
    loss, active = np.asarray(loss, np.float32), ~kept.stopped
    improved = active & (loss < kept.loss)
    best = np.where(improved, np.int32(epoch), kept.best)
    selects = improved if selection.keep == "best" else active

    def pick(new: Any, old: np.ndarray) -> np.ndarray:
        return np.where(selects.reshape(selects.shape + (1,) * (np.ndim(old) - selects.ndim)), new, old)

    return SelectionState(
        jax.tree.map(pick, jax.device_get(state), kept.state) if selects.any() else kept.state,
        pick(np.int32(epoch), kept.epoch),
        np.where(improved, loss, kept.loss),
        best,
        kept.stopped | ((selection.stop_after > 0) & (epoch - best >= selection.stop_after)),
    )


def final(lines: list[Record], kept: SelectionState | None, split: str = "test") -> Record:
    """The metrics of a split at the kept epoch, of every seed at its own; without `kept` those of the last epoch.

    With several seeds that are kept at different epochs, `epoch` and `step` are those of the last of them.
    """
    of_split = [line for line in lines if line["split"] == split]
    if kept is None:
        return of_split[-1]
    by_epoch = {line["epoch"]: line for line in of_split}
    chosen = [by_epoch[epoch] for epoch in np.ravel(kept.epoch).tolist()]
    last = max(chosen, key=lambda line: line["step"])
    if len(chosen) == 1:
        return last
    values = {name: np.array([each(line[name])[seed] for seed, line in enumerate(chosen)]) for name in names(last)}
    return {**{name: last[name] for name in OTHERS}, **fields(values)}


def described(kept: SelectionState, epochs: int, selection: Selection) -> str:
    """One line that states the kept epoch, and whether training stopped early."""
    numbers = ", ".join(map(str, np.ravel(kept.epoch).tolist()))
    losses = ", ".join(f"{loss:.4f}" for loss in np.ravel(kept.loss).tolist())
    plural = "s" * (selection.stop_after > 1)
    early = f"stopped early, after {selection.stop_after} epoch{plural} without a smaller validation loss; "
    kind = "epochs" if kept.epoch.size > 1 else "epoch"
    return f"{early * bool(kept.stopped.any())}kept {kind} {numbers} of {epochs}; smallest validation loss {losses}"
