"""Figures of the codes of a sparse autoencoder: how often its latents fire, and how many fire in an example."""

from typing import TYPE_CHECKING

import numpy as np

from jaxae.measure.latents import Survey
from jaxae.report.figures.base import COLOURS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def firing(survey: Survey, title: str) -> "Figure":
    """Histogram of the logarithm of the firing frequency of the latents; its label has the number of dead ones."""
    count, dead = len(survey.fired), int((survey.fired == 0).sum())
    figure = canvas(f"{title}: firing frequency of {count:,} latents", 7.0, 3.6)
    axis = figure.subplots()
    lowest = -np.log10(len(survey.active))
    bins = np.linspace(np.floor(2 * lowest) / 2, 0, 61)
    axis.hist(np.log10(survey.frequency[survey.fired > 0]), bins=bins.tolist(), color=COLOURS[0])
    axis.set(
        xlabel=f"log10 of the fraction of {len(survey.active):,} examples; {dead:,} latents never fire",
        ylabel="latents",
    )
    axis.grid(alpha=0.3)
    return figure


def active(survey: Survey, title: str) -> "Figure":
    """Histogram of the number of latents that fire in an example (L0)."""
    figure = canvas(f"{title}: latents that fire in an example (L0)", 7.0, 3.6)
    axis = figure.subplots()
    low, high = max(0, int(survey.active.min()) - 2), int(survey.active.max()) + 2
    width = -(-(high - low + 1) // 60)
    bins = np.arange(low, high + width + 1, width) - 0.5
    axis.hist(survey.active, bins=bins.tolist(), color=COLOURS[0])
    mean = survey.active.mean()
    axis.axvline(mean, color=COLOURS[2])
    axis.set(xlabel=f"L0, mean {mean:.4g} (line)", ylabel="examples")
    axis.grid(alpha=0.3)
    return figure
