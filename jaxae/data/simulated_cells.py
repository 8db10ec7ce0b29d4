"""`simulated_cells`: counts of genes in cells of known types and batches, after Splatter (Zappia et al. 2017).

A cell of type t in batch b has the total l ~ LogNormal(log total + T_b, total_scale^2) and for gene g the share

    rho_g = m_g e^(U_tg + V_bg) / (their sum over genes),

m_g ~ Gamma(shape) the expression of the gene, U its change by the type, N(0, type_scale^2) in a fraction of the genes
and otherwise 0, V ~ N(0, batch_scale^2) its change by the batch, and T_b ~ N(0, batch_total^2). Its counts are negative
binomial with mean l rho_g and inverse dispersion r_g ~ LogNormal(log dispersion, dispersion_scale^2). A count of
mean c is lost (becomes 0) with probability 1 / (1 + (c / dropout)^2), a logistic function of log c.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import worlds
from jaxae.data.arrays import from_arrays
from jaxae.data.dataset import Dataset
from jaxae.errors import InputError

NAME = "simulated_cells"


@dataclass(frozen=True)
class Cells:
    """The constants of the data set."""

    train: int = 8_000  # cells
    test: int = 2_000
    genes: int = 1_000
    types: int = 6
    batches: int = 3
    shape: float = 0.6  # of the gamma distribution of the expression of genes
    type_fraction: float = 0.1  # of the genes whose expression depends on the type, for each type
    type_scale: float = 1.0  # standard deviation of its logarithm
    batch_scale: float = 0.3  # standard deviation of the logarithm of the expression over batches, for every gene
    frequency: float = 0.7  # of each type, relative to the one before it
    total: float = 1_000.0  # median total count of a cell
    total_scale: float = 0.3  # standard deviation of its logarithm within a batch
    batch_total: float = 0.3  # and between batches
    dispersion: float = 2.0  # median inverse dispersion of a gene
    dispersion_scale: float = 0.5  # standard deviation of its logarithm
    dropout: float = 0.0  # mean count of which half are lost; 0: none are lost
    seed: int = 42  # of all constants and cells


class Genes(NamedTuple):
    """The constants of all genes."""

    share: Float[np.ndarray, "types batches genes"]  # rho
    log_total: Float[np.ndarray, " batches"]  # mean of log l
    dispersion: Float[np.ndarray, " genes"]  # r
    frequency: Float[np.ndarray, " types"]


class Sample(NamedTuple):
    """Sampled cells."""

    counts: Int[np.ndarray, "N genes"]
    kind: Int[np.ndarray, " N"]  # type
    batch: Int[np.ndarray, " N"]


def simulated_cells(**constants: Any) -> Dataset:
    """Counts of cells, their types as classes and their batches as the covariate `batch`.

    constants: fields of `Cells` that differ, such as `simulated_cells(genes=200, batches=2)`. InputError for unknown
    names and impossible constants.
    """
    cells = worlds.changed(Cells(), constants, NAME)
    _require_valid(cells)
    rng = np.random.default_rng(cells.seed)
    of_genes = genes(cells, rng)
    train, test = (sample(cells, of_genes, count, rng) for count in (cells.train, cells.test))
    names = np.array([f"type {number}" for number in range(cells.types)])
    batches = np.array([f"batch {number}" for number in range(cells.batches)])
    return from_arrays(
        train.counts,
        names[train.kind],
        context={"batch": batches[train.batch]},
        test=test.counts,
        test_y=names[test.kind],
        test_context={"batch": batches[test.batch]},
        kind="counts",
    )


def load(name: str) -> Dataset:
    """The data set of this name, as `simulated_cells,genes=200,seed=1`. InputError as in `simulated_cells`."""
    variant, constants = worlds.constants_of(name, Cells)
    if variant:
        raise InputError(f"data={name} is unknown; use {NAME}, or {NAME},genes=200 with other constants")
    return simulated_cells(**constants)


def genes(cells: Cells, rng: np.random.Generator) -> Genes:
    """The constants of all genes."""
    expression = np.log(np.maximum(rng.gamma(cells.shape, 1, cells.genes), 1e-12))
    depends = rng.random((cells.types, cells.genes)) < cells.type_fraction
    of_type = depends * cells.type_scale * rng.normal(size=depends.shape)
    of_batch = cells.batch_scale * rng.normal(size=(cells.batches, cells.genes))
    log_share = expression + of_type[:, None] + of_batch
    share = np.exp(log_share - log_share.max(-1, keepdims=True))
    frequency = cells.frequency ** np.arange(cells.types)
    return Genes(
        share / share.sum(-1, keepdims=True),
        np.log(cells.total) + cells.batch_total * rng.normal(size=cells.batches),
        cells.dispersion * np.exp(cells.dispersion_scale * rng.normal(size=cells.genes)),
        frequency / frequency.sum(),
    )


def sample(cells: Cells, of_genes: Genes, count: int, rng: np.random.Generator) -> Sample:
    """Sample cells; type and batch are independent, and all batches are of the same size on average."""
    kind, batch = rng.choice(cells.types, count, p=of_genes.frequency), rng.integers(0, cells.batches, count)
    total = np.exp(of_genes.log_total[batch] + cells.total_scale * rng.normal(size=count))
    mean = total[:, None] * of_genes.share[kind, batch]
    counts = rng.poisson(rng.gamma(of_genes.dispersion, mean / of_genes.dispersion))
    if cells.dropout:
        counts = counts * (rng.random(counts.shape) >= 1 / (1 + (mean / cells.dropout) ** 2))
    return Sample(counts, kind, batch)


def _require_valid(cells: Cells) -> None:
    least = {"train": 2, "test": 1, "genes": 2, "types": 1, "batches": 1, "seed": 0, "total": 1}
    least |= {
        "type_scale": 0,
        "batch_scale": 0,
        "total_scale": 0,
        "batch_total": 0,
        "dispersion_scale": 0,
        "dropout": 0,
    }
    worlds.require_least(cells, least, NAME)
    if min(cells.shape, cells.frequency, cells.dispersion) <= 0 or not 0 <= cells.type_fraction <= 1:
        raise InputError(f"data={NAME}: shape, frequency and dispersion must be above 0, and type_fraction from 0 to 1")
