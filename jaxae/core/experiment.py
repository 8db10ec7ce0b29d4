"""The experiment: a model, its training transition, its test loss and its measures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Loss
from jaxae.core.step import Transition
from jaxae.core.types import Conditions, Variables

# (variables, key, N) -> codes; for a conditional model, (variables, key, N, condition)
Prior: TypeAlias = Callable[..., Float[Array, "N *code"]]
Corrupt: TypeAlias = Callable[[Key[Array, ""], Batch], Float[Array, "B *D"]]  # (key, batch) -> encoder input
ExpectedMetrics: TypeAlias = Mapping[str, float | tuple[float, float]]  # test metric -> upper bound, or range


@dataclass(frozen=True)
class Experiment:
    """A model with its training transition, test loss, measures and expected test metrics.

    The model is any Flax module with `encode(x)`, `decode(codes)` and `__call__(x)`, which creates the parameters:
    `Experiment(model, descend(loss, optimizer), loss)` with

        def loss(variables, batch, key):
            codes = model.apply(variables, batch.x, method="encode")
            error = jnp.sum((model.apply(variables, codes, method="decode") - batch.x) ** 2, axis=(1, 2, 3))
            return {"loss": error}, {}

    A loss returns (terms, updates). Each term has one number per example; `loss` is minimised, and the means of all
    terms are reported. Updates are new values of collections that training changes without gradients (`batch_stats`),
    usually none. `batch.x` holds float32 examples in model units, pixels in [0, 1], standardized numbers or counts;
    `batch.noise(key, shape)` samples noise per example.
    TypeError for fields of other types, and for a model without `__call__`.
    """

    # With methods encode(x) -> codes and decode(codes) -> examples, in model units, and for masked images the attribute
    # `hidden`, the value of pixels that the encoder does not see.
    model: nn.Module
    train: Transition
    evaluate: Loss  # the means of its terms over the test split are reported
    prior: Prior | None = None  # samples the codes from which examples are generated
    corrupt: Corrupt | None = None
    sequences: bool = False  # whether the model's methods take a mask [B, T], for sequences of different lengths
    missing: bool = False  # whether the losses use observed entries only (`batch.observed`)
    counts: bool = False  # whether the examples are counts: non-negative integers
    # Whether the methods of the model, and the prior, take a condition [B, K] as last argument: see `conditions`.
    conditional: bool = False
    # Classes are part of the condition; or part of it, and inferred where they are missing; or not part of it.
    classes: Literal["given", "inferred", "unused"] = "given"
    expected: Mapping[str, ExpectedMetrics] = field(default_factory=dict)  # by data set
    unit: str = "nats per {example}"  # of the loss; reports write "image" and "pixel", ... for {example} and {value}
    # Further measures of the trained model, by their names in result.json.
    measures: Mapping[str, "Measure"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the types."""
        for name, value, kind in (("model", self.model, nn.Module), ("train", self.train, Transition)):
            if not isinstance(value, kind):
                raise TypeError(f"{name} is a {type(value).__name__}, not a {kind.__name__}; see jaxae.Experiment")
        if not callable(self.model):
            raise TypeError(
                f"model: {type(self.model).__name__} has no __call__(x); let it return self.decode(self.encode(x))"
            )
        if not callable(self.evaluate):
            raise TypeError("evaluate must be a loss: a function (variables, batch, key) -> (terms, updates)")

    def condition(self, known: Conditions) -> Conditions:
        """The part of the classes and covariates of the data on which the model depends."""
        if not self.conditional:
            return Conditions()
        return known._replace(classes=()) if self.classes == "unused" else known


def reached(value: float, expected: float | Sequence[float]) -> bool:
    """Whether a metric meets its expected result, an upper bound or a range."""
    low, high = expected if isinstance(expected, Sequence) else (-math.inf, expected)
    return low <= value <= high


@runtime_checkable
class TrainedModel(Protocol):
    """The interface of a trained model to measures."""

    @property
    def experiment(self) -> Experiment:
        """The experiment of the model."""

    @property
    def variables(self) -> Variables:
        """Parameters and the other collections."""

    def encode(self, x: Any) -> Float[Array, "N *code"]:
        """Codes of examples."""


@runtime_checkable
class Classifier(TrainedModel, Protocol):
    """A trained model that infers classes."""

    def classify(self, x: Any) -> Float[Array, "N K"]:
        """Probabilities of the classes of examples."""


@runtime_checkable
class MeasuredSplit(Protocol):
    """A split of the data."""

    @property
    def x(self) -> Any:
        """Examples [N, *D], bytes or numbers in model units."""

    @property
    def y(self) -> Int[Any, " N"]:
        """Classes [N]; -1 for an example without a class."""

    @property
    def context(self) -> Any:
        """Covariates in model units [N, C]; None without any."""

    @property
    def observed(self) -> Any:
        """1 where an entry was measured, 0 where it is missing, [N, *D]; None: all were."""

    @property
    def factors(self) -> Int[Any, "N F"] | None:
        """Factors of variation of every example, if they are known."""


@runtime_checkable
class MeasuredData(Protocol):
    """The interface of the data to measures."""

    @property
    def test(self) -> MeasuredSplit:
        """The test split."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes."""


@runtime_checkable
class ConditionedData(MeasuredData, Protocol):
    """Data with covariates."""

    @property
    def covariates(self) -> Sequence[str]:
        """Names of the columns of `context`; `colour=red` indicates a category."""


@runtime_checkable
class RecordedData(MeasuredData, Protocol):
    """Data that may be recordings."""

    @property
    def sample_rate(self) -> int:
        """Sampling rate of recordings in Hz; 0 for other data."""


@runtime_checkable
class SparseSplit(MeasuredSplit, Protocol):
    """A split of examples that are sparse combinations of true features."""

    @property
    def firing(self) -> Any:
        """Whether each feature is active in each example, [N, F], read in slices; None if unknown."""


@runtime_checkable
class SparseData(Protocol):
    """Data whose true dictionary may be known."""

    @property
    def test(self) -> SparseSplit:
        """The test split."""

    @property
    def dictionary(self) -> Float[Any, "F D"] | None:
        """The direction of each feature in model units; None if unknown."""


Measure: TypeAlias = Callable[[TrainedModel, MeasuredData], Mapping[str, float]]
