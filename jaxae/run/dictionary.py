"""The fields that all sparse autoencoders share, and the experiment that they describe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxae.core.experiment import Experiment, MeasuredData
from jaxae.core.step import descend
from jaxae.core.types import Info, State
from jaxae.data.scaling import Scaling
from jaxae.measure.dictionary import measure
from jaxae.run.build import optimizer
from jaxae.training import epoch
from jaxae.variants import constraints, dead_latents, dictionary, dictionary_learning
from jaxae.variants.dictionary import Rule, SparseAutoencoder, Start
from jaxae.variants.dictionary_learning import is_zero
from jaxae.variants.folding import fold

EXAMPLES = 10_000  # for the input scale and the initial decoder bias


@dataclass(frozen=True)
class Fields:
    """Dictionary, start and dead latents. For `class Config(dictionary.Fields, run.Config)`."""

    scale: Scaling = "none"
    epochs: int = 10
    batch_size: int = 1024
    lr: float = 3e-4
    latent: int = 4096
    """Number of latents, the width of the dictionary."""
    decoder_norm: Literal["unit", "scaled"] = "unit"
    """Norm of the decoder's rows. unit: 1, by projection. scaled: free, and activations are multiplied by it."""
    initial_norm: float = 0.1
    """Initial norm of the decoder's rows with --decoder-norm scaled; the encoder starts as the transpose."""
    decoder_bias: Literal["mean", "median", "zero"] = "mean"
    """Initial decoder bias: mean or geometric median of the training examples, or 0."""
    input_scale: Literal["norm", "none"] = "norm"
    """Scale of the inputs. norm: one factor, so that their mean norm is the square root of their dimension."""
    auxiliary: float = 0.0
    """Weight of the auxiliary loss of dead latents (0: none)."""
    dead_after: int = 1000
    """Training steps without activity after which a latent is dead."""
    resample_every: int = 0
    """Steps between resamplings of the latents that have not been active since the last one (0: none)."""


@dataclass(frozen=True)
class Penalized:
    """A penalty on the codes."""

    coefficient: float = 1.0
    """Weight of the penalty on the codes."""
    coefficient_warmup: float = 0.0
    """Fraction of the training steps over which --coefficient rises from 0."""
    target_active: float = 0.0
    """Target number of active latents (L0), for which a controller adjusts the coefficient (0: no controller)."""


def experiment(config: Any, info: Info, rule: Rule, *, levels: Sequence[int] = ()) -> Experiment:
    """The experiment of an activation rule.

    config: an experiment's, with `Fields`, and `Penalized` if the rule has a penalty. levels: see
    `dictionary_learning.loss`. ValueError for levels that do not increase, for more active latents than there are, and
    for numbers out of range or without effect.
    """
    _require_valid(config, rule, levels)
    unit = config.decoder_norm == "unit" or rule.tied
    model = SparseAutoencoder(
        info.shape,
        config.latent,
        rule,
        rescaled=not unit,
        start=start(config, info, 1.0 if unit else config.initial_norm),
        precision=config.precision,
    )
    steps = epoch.first_step(config.epochs, info.train, config.batch_size)
    weights: dict[str, Any] = {}
    if isinstance(config, Penalized):
        rise = config.coefficient_warmup * steps
        weights["coefficient"] = dictionary_learning.warmup(config.coefficient, rise)
        if config.target_active:
            weights["target"] = dictionary_learning.Target(config.target_active, rise)
    loss = dictionary_learning.loss(
        model, levels=levels, auxiliary_weight=config.auxiliary, dead_after=config.dead_after, **weights
    )
    chosen = optimizer(config, info)
    if unit:
        chosen = constraints.unit_norm(chosen)
    if "threshold" in rule.parameters:
        chosen = constraints.non_negative(chosen, "threshold")
    train = descend(loss, chosen)
    if config.resample_every:
        train = dead_latents.resampled(train, model, config.resample_every)
    return Experiment(model, train, loss, unit="per {example}", measures={"dictionary": measured})


def _require_valid(config: Any, rule: Rule, levels: Sequence[int]) -> None:
    """Raise ValueError for a field out of range or without effect."""
    latent, target = config.latent, getattr(config, "target_active", 0)
    if sorted({0, *levels, latent}) != [0, *levels, latent]:
        raise ValueError(f"levels={tuple(levels)} must increase from at least 1, below latent={latent}")
    if getattr(rule, "active", 0) > latent:
        raise ValueError(f"active={config.active} must be at most latent={latent}")
    if rule.tied and config.decoder_norm == "scaled":
        raise ValueError(
            f"decoder_norm=scaled has no effect on {type(rule).__name__}, whose decoder rows have norm 1; omit it"
        )
    if config.decoder_norm == "unit" and config.initial_norm != Fields.initial_norm:
        raise ValueError(f"initial_norm={config.initial_norm} has no effect with decoder_norm=unit; omit it")
    for name in ("initial_norm", "bandwidth"):
        if is_zero(getattr(config, name, 1.0)):
            raise ValueError(f"{name}={getattr(config, name)} must be above 0")
    if target > latent:
        raise ValueError(f"target_active={target} must be at most latent={latent}")
    rise = getattr(config, "coefficient_warmup", 0)
    if rise > 1:
        raise ValueError(f"coefficient_warmup={rise} must be at most 1")
    if target and rise == 1:
        raise ValueError(
            f"coefficient_warmup={rise} must be below 1, since the controller of target_active={target} starts after it"
        )
    if target and is_zero(config.coefficient):
        raise ValueError(
            f"target_active={target} has no effect with coefficient={config.coefficient}; use a coefficient above 0"
        )


def measured(trained: Any, data: MeasuredData) -> Mapping[str, float]:
    """The metrics of `measure.dictionary.measure`, with the input scale and the decoder's norms folded."""
    model, variables = fold(trained.experiment.model, trained.variables)
    params, extra = variables.pop("params"), variables
    plain = replace(trained.experiment, model=model)
    return measure(replace(trained, experiment=plain, state=State(trained.state.step, params, (), extra)), data)


def start(config: Fields, info: Info, norm: float) -> Start:
    """Initial values, from the training examples; a saved model needs none."""
    rows = dictionary.unit_rows(norm)
    if info.examples is None:
        return Start(rows)
    x = info.examples(EXAMPLES).reshape(-1, prod(info.shape)).astype(np.float64)
    norm_of_inputs = np.linalg.norm(x, axis=1).mean()
    scale = np.sqrt(x.shape[1]) / norm_of_inputs if config.input_scale == "norm" and norm_of_inputs else 1.0
    centres = {"mean": lambda: x.mean(0), "median": lambda: geometric_median(x), "zero": lambda: np.zeros(x.shape[1])}
    bias = (scale * centres[config.decoder_bias]()).astype(np.float32)
    return Start(rows, lambda *_: jnp.asarray(bias), scale)


def geometric_median(x: Float[np.ndarray, "N d"], steps: int = 100) -> Float[np.ndarray, " d"]:
    """The point with the least sum of distances to the rows, by the algorithm of Weiszfeld 1937."""
    point = x.mean(0)
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(x - point, axis=1), 1e-12)
        point = weights @ x / weights.sum()
    return point
