"""Simulated cells: their constants and counts against the formulas, by Monte Carlo."""

import numpy as np
import pytest
from scipy import stats

from jaxae import data
from jaxae.data.simulated_cells import Cells, genes, sample
from jaxae.errors import InputError

COUNT = 40_000
SMALL = {"genes": 3, "types": 2, "batches": 2, "total": 20.0, "type_fraction": 0.5, "dispersion": 3.0}


def sampled(**constants):
    cells = Cells(**{**SMALL, **constants})
    rng = np.random.default_rng(cells.seed)
    of = genes(cells, rng)
    return cells, of, sample(cells, of, COUNT, rng)


def test_counts_have_the_moments_of_a_negative_binomial_with_a_log_normal_total():
    """E x = E l rho, and E x^2 = E x + (1 + 1 / r) E l^2 rho^2, for every type and batch."""
    cells, of, found = sampled(total_scale=0.4, batch_total=0.5, dispersion_scale=0.8, seed=1)
    assert np.ptp(of.log_total) > 0.1
    assert np.ptp(of.dispersion) > 0.5
    first, second = (np.exp(k * of.log_total + 0.5 * (k * cells.total_scale) ** 2) for k in (1, 2))
    for kind in range(2):
        for batch in range(2):
            x = found.counts[(found.kind == kind) & (found.batch == batch)].astype(float)
            share, error = of.share[kind, batch], 5 / np.sqrt(len(x))
            mean = first[batch] * share
            square = mean + (1 + 1 / of.dispersion) * second[batch] * share**2
            assert np.all(np.abs(x.mean(0) - mean) < error * x.std(0))
            assert np.all(np.abs((x**2).mean(0) - square) < error * (x**2).std(0))


def test_types_have_their_frequencies_in_every_batch():
    _, of, found = sampled(frequency=0.25, total_scale=0.0)
    np.testing.assert_allclose(of.frequency, [0.8, 0.2])
    assert stats.chisquare(np.bincount(found.batch)).pvalue > 1e-3
    table = np.array([np.bincount(found.kind[found.batch == b]) for b in range(2)])
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.binomtest(int((found.kind == 0).sum()), COUNT, 0.8).pvalue > 1e-3


def test_shares_differ_between_types_and_batches_according_to_their_scales():
    """Ratios of shares of two types within a batch differ in a fraction of the genes; those of two batches in all."""
    cells = Cells(genes=COUNT, types=2, batches=2, type_fraction=0.3, type_scale=0.7, batch_scale=0.2, shape=2.0)
    of = genes(cells, np.random.default_rng(0))
    np.testing.assert_allclose(of.share.sum(-1), 1)
    of_type, of_batch = (np.log(a / b) for a, b in ((of.share[1, 0], of.share[0, 0]), (of.share[0, 1], of.share[0, 0])))
    unchanged = np.isclose(of_type, np.median(of_type), atol=1e-9)
    assert unchanged.mean() == pytest.approx(0.7**2, abs=0.02)
    assert (of_type - np.median(of_type)).std() == pytest.approx(np.sqrt(2 * 0.3) * 0.7, rel=0.03)
    assert of_batch.std() == pytest.approx(np.sqrt(2) * 0.2, rel=0.03)
    interaction = np.log(of.share[1, 1] / of.share[0, 1]) - of_type
    assert interaction.std() < 1e-9  # the effects add on the logarithmic scale
    plain = genes(Cells(genes=COUNT, types=1, batches=1, type_fraction=0.0, batch_scale=0.0, shape=2.0), _rng())
    expression = plain.share[0, 0] / plain.share[0, 0].mean()
    assert expression.std() == pytest.approx(1 / np.sqrt(2.0), rel=0.03)  # of a gamma distribution
    assert np.log(plain.dispersion).mean() == pytest.approx(np.log(2.0), abs=0.02)
    assert np.log(plain.dispersion).std() == pytest.approx(0.5, rel=0.03)


def _rng():
    return np.random.default_rng(3)


def test_lost_counts_are_a_logistic_fraction_of_the_mean():
    """The same cells with and without losses: for a constant total the fraction depends on the gene alone."""
    constants = {"total_scale": 0.0, "batch_total": 0.0, "types": 1, "batches": 1, "dispersion": 1e6}
    _, of, found = sampled(**constants, dropout=4.0)
    mean = 20 * of.share[0, 0]
    lost = 1 / (1 + (mean / 4) ** 2)
    zero = lost + (1 - lost) * np.exp(-mean)
    assert np.all(np.abs((found.counts == 0).mean(0) - zero) < 5 * np.sqrt(zero * (1 - zero) / COUNT))
    assert np.ptp(lost) > 0.1


def test_data_set_has_types_as_classes_and_batches_as_covariates():
    found = data.load("simulated_cells,train=60,test=20,genes=7,types=3,batches=2,seed=5")
    assert (found.kind, found.shape, len(found.train.x), len(found.test.x)) == ("counts", (7,), 60, 20)
    assert found.classes == ("type 0", "type 1", "type 2")
    assert found.covariates == ("batch=batch 0", "batch=batch 1")
    assert found.total == pytest.approx(found.train.x.sum(1).mean())
    again = data.simulated_cells(train=60, test=20, genes=7, types=3, batches=2, seed=5)
    assert again.fingerprint() == found.fingerprint()
    other = data.simulated_cells(train=60, test=20, genes=7, types=3, batches=2, seed=6)
    assert other.fingerprint() != found.fingerprint()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("simulated_cells,cells=3", "cells is not a field of Cells; use one of train, test, genes"),
        ("simulated_cells,genes=1", "genes=1 must be at least 2"),
        ("simulated_cells,genes=x", "genes=x must be an integer"),
        ("simulated_cells,type_fraction=2", "shape, frequency and dispersion must be above 0, and type_fraction"),
        (
            "simulated_cells/large",
            "simulated_cells/large is unknown; use simulated_cells, or simulated_cells,genes=200",
        ),
    ],
)
def test_impossible_constants_raise(name, says):
    with pytest.raises(InputError, match=says):
        data.load(name)


def test_options_without_effect_raise():
    with pytest.raises(InputError, match="target=kind has no effect on simulated_cells"):
        data.load("simulated_cells,train=9,genes=3", target="kind")
