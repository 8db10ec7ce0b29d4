"""What an experiment hands over: a model, how it is trained, and how it is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Loss
from jaxae.core.step import Transition
from jaxae.core.types import Variables

Prior: TypeAlias = Callable[[Variables, Key[Array, ""], int], Float[Array, "N *code"]]  # (variables, key, N) -> codes
Corrupt: TypeAlias = Callable[[Key[Array, ""], Batch], Float[Array, "B *D"]]  # what the encoder sees of a batch
Figures: TypeAlias = Mapping[str, float | tuple[float, float]]  # test metric -> at most, or a range


@dataclass(frozen=True)
class Experiment:
    """A system: its model, how it is trained, how it is measured, and the figures that it should reach."""

    model: nn.Module  # with methods __call__(x), encode(x) -> codes and decode(codes) -> pixels in [0, 1]
    train: Transition
    evaluate: Loss  # the means of its terms over the test split are reported
    prior: Prior | None = None  # codes to generate from
    corrupt: Corrupt | None = None
    sequences: bool = False  # whether the model takes sequences of different lengths: its methods take a mask [B, T]
    expected: Mapping[str, Figures] = field(default_factory=dict)  # data set -> figures of the source
    unit: str = "nats per image"  # of the loss
    # What else is measured of a trained model and its data, by its name in result.json.
    measures: Mapping[str, "Measure"] = field(default_factory=dict)


@runtime_checkable
class TrainedModel(Protocol):
    """What a measure may use of a trained model."""

    @property
    def experiment(self) -> Experiment:
        """What was trained."""

    @property
    def variables(self) -> Variables:
        """Parameters and the other collections."""

    def encode(self, x: Any) -> Float[Array, "N *code"]:
        """Codes of examples."""


@runtime_checkable
class Examples(Protocol):
    """A split of the data."""

    @property
    def x(self) -> Any:
        """Examples [N, *D], bytes or numbers in [0, 1]."""

    @property
    def factors(self) -> Int[Any, "N F"] | None:
        """Factors of variation of every example, if they are known."""


@runtime_checkable
class MeasuredData(Protocol):
    """What a measure may use of the data."""

    @property
    def test(self) -> Examples:
        """The test split."""


Measure: TypeAlias = Callable[[TrainedModel, MeasuredData], Mapping[str, float]]
