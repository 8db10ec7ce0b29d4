"""Metrics of a trained model: reconstruction quality, defects of a 2-D latent space, disentanglement."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae.core.experiment import Measure, MeasuredData, TrainedModel
from jaxae.data import Dataset, slices, spread
from jaxae.measure import disentanglement, images, plane
from jaxae.training import records
from jaxae.training.examples import own_conditions, part_of
from jaxae.training.trained import Trained

MAX_IMAGES = 10_000  # test images for reconstruction quality and defects
MAX_DIMENSIONS = 64  # latent dimensions for disentanglement metrics: more take minutes
PRIOR_SAMPLES = 10_000  # for the standard deviation of the prior


def measures(model: Trained, dataset: Dataset, others: Sequence[Trained] = ()) -> dict[str, Any]:
    """Reconstruction quality, defects of a 2-D latent space, disentanglement, and the measures of the experiment.

    Reconstruction quality and defects are measured for `model`, the first seed, on at most 10,000 test examples.
    Quality is omitted for sequences, real-valued data, missing entries, and images smaller than the SSIM window;
    defects are omitted for conditional models, and if one of them is not finite, as for a class with collinear codes.
    The other measures cover all seeds: if `others`, the models of the other seeds, are passed, they are records of
    `seeds`, `mean` and `std`. Disentanglement needs known factors and at most 64 latent dimensions.
    """
    found: dict[str, Any] = {}
    test = dataset.test
    if len(test.x) > MAX_IMAGES:
        rows = spread(len(test.x), MAX_IMAGES)
        test = test.take(rows)
    given = own_conditions(model, dataset, test)
    pixels = len(model.shape) == 3 and not model.real and test.observed is None
    if pixels and min(model.shape[:2]) >= len(images.WINDOW):
        parts = slices(len(test.x), math.prod(model.shape))
        z = np.concatenate(
            [model.encode(model.corrupted(test.x[part], part.start), **part_of(given, part)) for part in parts]
        )

        def decode(places: Int[Any, " n"]) -> Float[Array, "n *D"]:
            return model.decode(z[places], **part_of(given, np.asarray(places)))

        found["reconstruction_quality"] = images.reconstruction_quality(decode, np.arange(len(test.x)), test.x)
    if model.code == (2,) and len(dataset.classes) > 1 and not model.experiment.conditional:
        with contextlib.suppress(ValueError):  # the codes lie on a line
            defects = plane.defects(model.decode, np.asarray(model.encode(test)), test.y)
            if all(map(math.isfinite, defects.values())):
                found["plane"] = defects
    wanted = dict(model.experiment.measures)
    if dataset.test.factors is not None and math.prod(model.code) <= MAX_DIMENSIONS:
        wanted["disentanglement"] = _disentanglement
    for name, measure in wanted.items():
        found[name] = of_seeds(measure, [model, *others], dataset)
    return found


def of_seeds(measure: Measure, models: Sequence[Trained], dataset: Dataset) -> records.Record:
    """A measure of a single model, or of the models of all seeds as records of `seeds`, `mean` and `std`."""
    rows = [measure(model, dataset) for model in models]
    return records.fields({key: [row[key] for row in rows] if len(rows) > 1 else rows[0][key] for key in rows[0]})


def _disentanglement(model: TrainedModel, data: MeasuredData) -> dict[str, float]:
    if data.test.factors is None:
        return {}
    codes = np.asarray(model.encode(data.test))
    codes = codes.reshape(len(codes), -1)
    return disentanglement.measure(codes / _scale(model, codes), data.test.factors)


def _scale(model: TrainedModel, codes: Float[np.ndarray, "N Z"]) -> Float[np.ndarray, "1 _"]:
    """Standard deviation of each latent dimension under the prior.

    Without a prior, or with one for each condition, that of the most variable dimension.
    """
    if model.experiment.prior is None or model.experiment.conditional:
        scale = codes.std(0).max(keepdims=True)
    else:
        samples = np.asarray(model.experiment.prior(model.variables, jax.random.key(0), PRIOR_SAMPLES))
        scale = samples.reshape(PRIOR_SAMPLES, -1).std(0)
    return np.where(scale > 0, scale, 1)[None]
