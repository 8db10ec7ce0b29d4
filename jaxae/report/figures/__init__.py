"""The figures of a run as PNG files, by kind of data: images, series or tables."""

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jaxae.core.types import Sampler
from jaxae.data import Dataset
from jaxae.measure import latents
from jaxae.report.figures import errors as errors
from jaxae.report.figures import images, imputed, series, sound, sparse, table, walks
from jaxae.report.figures.base import COLOURS as COLOURS
from jaxae.report.figures.base import displayed, fitted_mixture, save
from jaxae.report.figures.conditions import at_first
from jaxae.report.figures.images import strip as strip
from jaxae.report.figures.images import strip_path as strip_path
from jaxae.report.figures.integration import integration
from jaxae.report.figures.metrics import loss
from jaxae.report.figures.plane import FEW, activity, codes, codes_of, latent, projected, tsne
from jaxae.training import records
from jaxae.training.trained import Trained
from jaxae.variants.dictionary import SparseAutoencoder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Figures: TypeAlias = dict[str, "Figure"]

COMPONENTS = 20  # of the Gaussian mixture that serves as prior for models without one


def draw(folder: Path, model: Trained, data: Dataset, lines: list[records.Record], title: str) -> list[Path]:
    """Write all figures that apply to the model and the kind of data into `folder`, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.experiment.model, SparseAutoencoder):
        return _saved(folder, _of_dictionary(folder, model, data, lines, title))
    z, y = codes_of(model, data, 10_000)
    moving = bool(np.ptp(z, axis=0).any())
    prior = None
    if model.experiment.prior is None and moving and data.train.lengths is None:
        prior = fitted_prior(model, data)
    of_kind = {1: _of_table, 2: _of_series}.get(len(data.shape), _of_images)
    figures = {"loss": loss(lines, model.experiment.unit, title, data.kind)}
    figures |= of_kind(folder, model, data, title, prior)
    figures["activity"] = activity(z, title)
    if moving and prod(model.code) > 1:
        figures["latent"] = latent(z, y, data.classes, title)
        shown = projected(model, data) if prod(model.code) > 2 and len(data.test.x) > FEW else None
        if shown:
            figures["tsne"] = tsne(shown, data, title)
        if integrated := integration(model, data, title, shown):
            figures["integration"] = integrated
    return _saved(folder, figures)


def _saved(folder: Path, figures: Figures) -> list[Path]:
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save(figure, path)
    return paths


def _of_dictionary(folder: Path, model: Trained, data: Dataset, lines: list[records.Record], title: str) -> Figures:
    """Figures of a sparse autoencoder, whose codes have no prior and too many dimensions for a traversal."""
    found = latents.of_test(model, data, 10_000)
    figures = {
        "loss": loss(lines, model.experiment.unit, title, data.kind),
        "firing": sparse.firing(found, title),
        "active": sparse.active(found, title),
    }
    own = replace(model, scale=data.scale)
    if len(data.shape) == 1:
        return {
            **figures,
            "columns": table.column_errors(own, data, title),
            "worst": table.worst_rows(own, data, title),
        }
    if len(data.shape) == 2:
        return {**figures, "reconstructions": series.curves(own, data, title)}
    pictured, shown = displayed(model, data)
    if strips := sorted((folder / "training").glob("*.png")):
        figures["training"] = images.training(strips, shown, title)
    return {**figures, "reconstructions": images.reconstructions(pictured, shown, title)}


def fitted_prior(model: Trained, data: Dataset) -> Sampler | None:
    """A Gaussian mixture fitted to the codes of training examples; None for too few of them."""
    if len(data.train.x) <= 10 * COMPONENTS:
        return None
    return fitted_mixture(model, data.train, COMPONENTS)


def _of_images(folder: Path, model: Trained, data: Dataset, title: str, prior: Sampler | None) -> "Figures":
    model, data = displayed(model, data)
    figures = {"reconstructions": images.reconstructions(model, data, title)}
    if completed := imputed.images(model, data, title):
        figures["imputed"] = completed
    if len(data.test.x) > 10:
        figures["extremes"] = images.extremes(model, data, title)
    if strips := sorted((folder / "training").glob("*.png")):
        figures["training"] = images.training(strips, data, title)
    if len(model.code) == 3:
        figures["codes"] = codes(model, data, title)
    first, about = at_first(model, data, title)
    figures["interpolation"] = walks.interpolation(first, data, about)
    figures["traversal"] = walks.traversal(first, data, about)
    if model.experiment.prior or prior:
        figures["mixture" if prior else "samples"] = walks.samples(model, data, title, prior)
    if model.experiment.conditional:
        figures["counterfactuals"] = walks.counterfactuals(model, data, title)
    if model.experiment.prior and model.code == (2,):
        figures["manifold"] = walks.manifold(first, about)
    return figures


def _of_series(folder: Path, model: Trained, data: Dataset, title: str, prior: Sampler | None) -> "Figures":
    model, strips = replace(model, scale=data.scale), sorted((folder / "training").glob("*.png"))
    figures = {"reconstructions": series.curves(model, data, title)}
    if sound.is_audible(data):
        pairs = sound.pairs_of(model, data)
        figures["spectrograms"] = sound.spectrograms(pairs, data, title)
        sound.write(folder, pairs, data.sample_rate)
    if len(data.test.x) > 10:
        figures["extremes"] = series.extremes(model, data, title)
    if strips:
        figures["training"] = images.training(strips, displayed(model, data)[1], title)
    first, about = at_first(model, data, title)
    figures["interpolation"] = series.interpolation(first, data, about)
    figures["traversal"] = series.traversal(first, data, about)
    if model.experiment.prior or prior:
        figures["mixture" if prior else "samples"] = series.samples(model, data, title, prior)
    if model.experiment.conditional:
        figures["counterfactuals"] = series.counterfactuals(model, data, title)
    if model.experiment.prior and model.code == (2,):
        figures["manifold"] = series.manifold(first, data, about)
    return figures


def _of_table(folder: Path, model: Trained, data: Dataset, title: str, prior: Sampler | None) -> "Figures":  # noqa: ARG001
    model, columns = replace(model, scale=data.scale), table.paired(model, data)
    first, about = at_first(model, data, title)
    figures = {
        "pairs": table.pairs(model, data, columns, title),
        "columns": table.column_errors(model, data, title),
        "worst": table.worst_rows(model, data, title),
        "scores": table.highest_scores(model, data, title),
        "traversal": table.traversal(first, data, about),
    }
    if completed := imputed.columns(model, data, title):
        figures["imputed"] = completed
    if model.experiment.conditional:
        figures["counterfactuals"] = table.counterfactuals(model, data, title)
    if model.experiment.prior or prior:
        figures["mixture" if prior else "samples"] = table.samples(model, data, columns, title, prior)
    return figures
