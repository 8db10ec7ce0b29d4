"""Disentanglement metrics of codes with known scores, and against computations by hand."""

from itertools import combinations, product
from math import log

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score
from sklearn.tree import DecisionTreeClassifier

from conftest import trained
from jaxae.core.experiment import Experiment
from jaxae.core.step import descend
from jaxae.data import Dataset, Split
from jaxae.errors import InputError
from jaxae.measure import disentanglement
from jaxae.measure.disentanglement import active, dci, factor_score, mig, sap
from jaxae.measure.measures import measures

COUNTS = (3, 4, 8, 10)
FACTORS = np.tile(
    np.array(list(product(*map(range, COUNTS)))), (2, 1)
)  # all combinations, which are exactly independent
IDENTITY = FACTORS.astype(np.float64)
UNIT = (IDENTITY - IDENTITY.mean(0)[None]) / IDENTITY.std(0)[None]
BEST_SAP = (1 - 1 / 3 + 3) / 4  # the second largest score of the 3-class factor is the chance level 1 / 3
ROTATED = UNIT @ np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape)


def ints(*rows):
    return np.array(rows).T


def floats(*rows):
    return np.array(rows, np.float64).T


@pytest.mark.parametrize(
    "codes",
    [
        IDENTITY,
        IDENTITY.astype(np.float32),
        -3 * IDENTITY + 7,
        np.concatenate([IDENTITY, np.zeros((len(IDENTITY), 2))], axis=1),
        np.concatenate([IDENTITY, np.full((len(IDENTITY), 1), 0.1)], axis=1),
    ],
    ids=["identity", "float32", "affine", "with zeros", "with a constant"],
)
def test_identity_has_the_highest_scores(codes):
    found = disentanglement.measure(codes, FACTORS)
    assert found.keys() == {
        "mig", "sap", "factor_vae_score", "active_dimensions",
        "dci_disentanglement", "dci_completeness", "dci_informativeness"
    }  # fmt: skip
    assert found.pop("active_dimensions") == 4
    for name, value in found.items():
        assert type(value) is float
        np.testing.assert_allclose(value, BEST_SAP if name == "sap" else 1, rtol=1e-9, err_msg=name)


def test_monotone_maps_of_the_factors_preserve_the_scores():
    """Bins, thresholds, trees and ranks of variances are invariant; the linear regression of SAP is not."""
    codes = np.stack([np.tanh(UNIT[:, 0]), UNIT[:, 1] + UNIT[:, 1] ** 3 / 9, -np.exp(UNIT[:, 2] / 2), UNIT[:, 3]], 1)
    found = disentanglement.measure(codes, FACTORS)
    np.testing.assert_allclose([found["mig"], found["factor_vae_score"], *dci(codes, FACTORS)], 1, rtol=1e-9)
    bent = [np.corrcoef(codes[:, j], FACTORS[:, j])[0, 1] ** 2 for j in (1, 2, 3)]
    assert 0.8 < min(bent) < 0.99
    np.testing.assert_allclose(found["sap"], (2 / 3 + sum(bent)) / 4, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_constant_codes_have_the_lowest_scores(value):
    found = disentanglement.measure(np.full((len(FACTORS), 3), value), FACTORS)
    assert found.pop("factor_vae_score") == 1 / 4
    assert set(found.values()) == {0.0}


def test_duplicated_latent_dimensions_lower_mig_sap_and_completeness():
    """In MIG and SAP the second largest score is that of the copy; in DCI the copies share the importance."""
    codes = np.concatenate([IDENTITY, IDENTITY], axis=1)
    assert mig(codes, FACTORS) == 0
    assert sap(codes, FACTORS) == 0
    assert factor_score(codes, FACTORS) == 1
    parts = dci(codes, FACTORS)
    np.testing.assert_allclose([parts.disentanglement, parts.informativeness], 1, rtol=1e-9)
    np.testing.assert_allclose(parts.completeness, 1 - log(2) / log(8), atol=0.02)


def test_rotated_codes_have_lower_scores_but_the_same_informativeness():
    best, mixed = (disentanglement.measure(codes, FACTORS) for codes in (IDENTITY, ROTATED))
    for name in set(best) - {"dci_informativeness", "active_dimensions"}:
        assert mixed[name] < 0.8 * best[name], name
    assert mixed["dci_informativeness"] > 0.9


def test_scores_are_invariant_to_order_and_scale_of_latent_dimensions():
    codes = ROTATED + 0.1 * noise(*ROTATED.shape)
    changed = codes[:, [2, 0, 3, 1]] * np.array([[2.0, 0.25, 1, 8]])
    for score in (mig, sap, factor_score):
        np.testing.assert_allclose(score(changed, FACTORS), score(codes, FACTORS), rtol=1e-9)
    np.testing.assert_allclose(dci(changed, FACTORS), dci(codes, FACTORS), atol=0.02)  # trees break ties at random


def test_scores_are_a_function_of_the_seed():
    codes, factors = (ROTATED + noise(*ROTATED.shape))[::5], FACTORS[::5]
    first, again, other = (disentanglement.measure(codes, factors, seed) for seed in (1, 1, 2))
    assert first == again
    assert first["mig"] == other["mig"]
    assert first["factor_vae_score"] != other["factor_vae_score"]
    assert first["dci_disentanglement"] != other["dci_disentanglement"]


def test_mig_against_a_calculation_by_hand():
    """v = 0011, two dimensions: the first equals v; for the second, 0111, p(0, 0) = p(1, 0) = 1/4, p(1, 1) = 1/2."""
    v, codes = ints([0, 0, 1, 1]), floats([5, 5, 9, 9], [0, 1, 1, 1])
    second = 1 / 4 * log((1 / 4) / (1 / 4 * 1 / 2)) + 1 / 4 * log((1 / 4) / (3 / 4 * 1 / 2))
    second += 1 / 2 * log((1 / 2) / (3 / 4 * 1 / 2))
    np.testing.assert_allclose(mig(codes, v), (log(2) - second) / log(2), rtol=1e-12)
    two = ints([0, 0, 1, 1], [0, 1, 2, 2])  # mutual information log 2, and log(4/3)/2 + log(4)/4 + log(2/3)/4
    tell = sorted([1.5 * log(2) - 0.5 * log(2), 1 / 4 * log(4) + 1 / 4 * log(4 / 3) + 1 / 2 * log(4 / 3)])
    expected = ((log(2) - second) / log(2) + (tell[1] - tell[0]) / (1.5 * log(2))) / 2
    np.testing.assert_allclose(mig(codes, two), expected, rtol=1e-12)


def test_mig_discretizes_into_20_bins_of_equal_width():
    """Binning 40 distinct values into 20 bins reduces their entropy from log 40 to log 20 nats.

    With an outlier, all other values are in two bins.
    """
    v = np.arange(40)[:, None]
    np.testing.assert_allclose(mig(v.astype(np.float64), v), log(20) / log(40), rtol=1e-12)
    far = np.append(np.arange(39), 39 * 10.0)[:, None]  # bins of 19.5: 0 to 19, 20 to 38, and the last alone
    halves = -sum(p * log(p) for p in (20 / 40, 19 / 40, 1 / 40))
    np.testing.assert_allclose(mig(far, v), halves / log(40), rtol=1e-12)


def test_sap_against_a_calculation_by_hand():
    """R^2 of the factor (0, 1, 2, 3) is 1 with the code (0, 1, 2, 3), and (1/2)^2 / (1/4 * 5/4) with (0, 0, 1, 1)."""
    v = ints([0, 1, 2, 3])
    codes = floats([0, 1, 2, 3], [0, 0, 1, 1], [1, -1, -1, 1])
    np.testing.assert_allclose(sap(codes, v, ()), 1 - 4 / 5, rtol=1e-12)
    np.testing.assert_allclose(sap(codes[:, 1:], v, ()), 4 / 5, rtol=1e-12)  # the last one is uncorrelated
    np.testing.assert_allclose(
        sap(codes[:, 1:2], v, ()), 4 / 5, rtol=1e-12
    )  # the second score of a single dimension is 0


def test_sap_of_categorical_factors_against_a_calculation_by_hand():
    """The code (0, 1, 1, 1) recalls 1/2 of the first class of the factor (0, 0, 1, 1) and all of the second one."""
    y = ints([0, 0, 1, 1])
    np.testing.assert_allclose(sap(floats([3, 3, 1, 1], [0, 1, 1, 1]), y), 1 - 3 / 4, rtol=1e-12)
    rare = ints([0, 0, 0, 0, 0, 0, 0, 1])  # a class of one example has the same weight as one of seven
    np.testing.assert_allclose(sap(floats([0, 0, 0, 0, 1, 1, 1, 1]), rare), (4 / 7 + 1) / 2 - 1 / 2, rtol=1e-12)
    middle = ints([0, 0, 1, 1, 2, 2])  # two thresholds separate three classes, whatever their order
    np.testing.assert_allclose(sap(floats([2, 2, 0, 0, 1, 1]), middle), 1 - 1 / 3, rtol=1e-12)
    np.testing.assert_allclose(sap(floats([2, 2, 0, 0, 1, 1]), middle, ()), 1 / 4, rtol=1e-12)


def best_balanced_accuracy(z, y):
    """The best of all sets of K - 1 thresholds; the second score in SAP, of a constant, is 1 / K."""
    values, classes = np.unique(z), np.unique(y)
    count = min(len(classes), len(values)) - 1
    found = []
    for cuts in combinations((values[1:] + values[:-1]) / 2, count):
        at = np.searchsorted(cuts, z)
        recalls = [[np.mean(at[y == k] == i) for k in classes] for i in range(count + 1)]
        found.append(np.max(recalls, axis=1).sum() / len(classes))
    return max(found)


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_thresholds_of_sap_against_all_sets_of_thresholds(classes):
    """Also with ties, which no threshold separates, and with fewer distinct values than classes."""
    draw = np.random.default_rng(classes)
    for values in (2, 5, 12, 1000):
        for _ in range(10):
            y = draw.permutation(np.append(np.arange(classes), draw.integers(0, classes, 10))) * 3 - 1
            z = draw.integers(0, values, len(y)) / 7
            expected = best_balanced_accuracy(z, y)
            np.testing.assert_allclose(sap(floats(z), ints(y)), expected - 1 / classes, rtol=1e-12, atol=1e-12)


def test_sap_of_two_classes_is_half_the_kolmogorov_smirnov_statistic():
    """The balanced accuracy of a threshold t is 1/2 + |F_0(t) - F_1(t)| / 2; Phi(1/2) - 1/2 for N(0, 1) and N(1, 1)."""
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 20_000) // 2
    z = draw.normal(y)
    np.testing.assert_allclose(sap(floats(z), ints(y)), stats.ks_2samp(z[y == 0], z[y == 1]).statistic / 2, rtol=1e-9)
    np.testing.assert_allclose(sap(floats(z), ints(y)), stats.norm.cdf(1 / 2) - 1 / 2, atol=0.01)


def test_thresholds_of_sap_are_better_than_those_of_a_greedy_tree():
    """A tree with three leaves has a balanced accuracy of 7/12; three intervals recall 2, 3 and 3 of four examples."""
    y, z = ints([0, 0, 1, 2, 0, 1, 1, 2, 2, 1, 2, 0]), floats(range(12))
    tree = DecisionTreeClassifier(max_leaf_nodes=3, class_weight="balanced", random_state=0).fit(z, y[:, 0])
    np.testing.assert_allclose(balanced_accuracy_score(y[:, 0], tree.predict(z)), 7 / 12, rtol=1e-12)
    np.testing.assert_allclose(sap(z, y), 8 / 12 - 1 / 3, rtol=1e-12)


def test_dci_against_a_calculation_by_hand():
    """Importances 3 : 1, 1 : 1, 0 : 2, and none."""
    importance = np.array([[3.0, 1.0], [1.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
    first = 1 + (3 / 4 * log(3 / 4) + 1 / 4 * log(1 / 4)) / log(2)
    np.testing.assert_allclose(disentanglement.disentanglement(importance), (4 * first + 2 * 0 + 2 * 1) / 8, rtol=1e-12)
    columns = [1 + (3 / 4 * log(3 / 4) + 1 / 4 * log(1 / 4)) / log(4)]
    columns.append(1 + (1 / 4 * log(1 / 4) + 1 / 4 * log(1 / 4) + 1 / 2 * log(1 / 2)) / log(4))
    np.testing.assert_allclose(disentanglement.disentanglement(importance.T), sum(columns) / 2, rtol=1e-12)


def test_importance_and_informativeness_against_a_calculation_by_hand():
    """One latent dimension, the sum of two coins, explains half of the variance of each."""
    coins = np.tile(np.array(list(product((0, 1), repeat=2))), (500, 1))
    parts = dci(coins.sum(1, keepdims=True).astype(np.float64), coins, categorical=())
    assert parts.disentanglement == 0
    assert parts.completeness == 1
    np.testing.assert_allclose(parts.informativeness, 1 / 2, atol=0.05)
    sure = dci(coins.astype(np.float64), coins, categorical=(0, 1))
    np.testing.assert_allclose(sure, 1, rtol=1e-12)


def test_informativeness_uses_error_rates_of_categorical_and_squared_errors_of_other_factors():
    """The code separates 0 from 1 and 2; the factor is 0, 1 and 2 in 3, 2 and 1 of 6 examples.

    Error rate: 1/6, and 3/6 for a constant prediction. Squared error: 1/2 * 2/9, and 1 - (2/3)^2 for a constant one.
    """
    factor = np.tile([[0], [0], [0], [1], [1], [2]], (1000, 1))
    codes = (factor > 0).astype(np.float64)
    np.testing.assert_allclose(dci(codes, factor).informativeness, 1 - 1 / 3, atol=0.03)
    np.testing.assert_allclose(dci(codes, factor, categorical=()).informativeness, 1 - (1 / 9) / (5 / 9), atol=0.03)


def test_informativeness_is_measured_on_held_out_examples():
    factors = np.random.default_rng(1).integers(0, 5, (400, 2))
    assert dci(noise(400, 3), factors).informativeness < 0.1
    assert dci(noise(400, 3), factors, categorical=()).informativeness == 0  # larger error than a constant prediction


def test_factor_score_against_a_calculation_by_hand():
    """All votes for a factor without a latent dimension are wrong."""
    assert factor_score(IDENTITY[:, :3], FACTORS) == 3 / 4
    assert factor_score(IDENTITY[:, 2:3], FACTORS) == 1 / 4
    coins = np.tile(np.array(list(product((-1, 1), repeat=2))), (50, 1))
    both = np.stack([coins[:, 0] + coins[:, 1], coins[:, 0]], 1).astype(np.float64)
    assert (
        factor_score(both, coins) == 1
    )  # fixing the first coin makes dimension 1 constant, fixing the second one dimension 0 least variable
    same = np.stack([coins[:, 0] + coins[:, 1], coins[:, 1] + coins[:, 0]], 1).astype(np.float64)
    assert (
        factor_score(same, coins) == 1 / 2
    )  # one dimension is always selected, also in the half of the votes for the other coin


def test_factor_score_compares_variances_with_those_over_all_examples():
    """The first dimension has the larger absolute variance even where its factor is fixed."""
    codes = np.stack([100 * (UNIT[:, 0] + 0.3 * noise(len(UNIT))), UNIT[:, 1] * 2], 1)
    assert factor_score(codes, FACTORS[:, :2]) == 1


@pytest.mark.parametrize("largest", [1, 8])
def test_factor_score_excludes_dimensions_that_have_collapsed_to_the_prior(largest):
    """Dimensions with a standard deviation below 0.05 are excluded, for any standard deviation of the others."""
    assert factor_score(UNIT[:, :3], FACTORS) == 3 / 4
    for size, count in ((1e-6, 3), (0.009, 3), (0.011, 3), (0.049, 3), (0.051, 4), (0.3, 4)):
        codes = UNIT * np.array([[1, largest, 1, size]])
        assert factor_score(codes, FACTORS) == count / 4
        np.testing.assert_array_equal(active(codes), np.arange(4) < count)


def test_active_dimensions_are_those_of_the_factor_vae_score():
    codes = np.concatenate([0.5 * UNIT[:200], 0.04 * noise(200, 3), np.full((200, 1), 5)], 1).astype(np.float32)
    found = disentanglement.measure(codes, FACTORS[:200, 1:])
    assert found["active_dimensions"] == active(codes).sum() == 3
    assert found["factor_vae_score"] == factor_score(codes[:, 1:4], FACTORS[:200, 1:])


def test_factor_score_of_noise_is_the_chance_level():
    """Training votes are not scored; with them noise would exceed the chance level."""
    codes = noise(len(FACTORS), 10)
    scores = np.array([factor_score(codes, FACTORS, seed, train_votes=40, test_votes=40) for seed in range(100)])
    assert abs(scores.mean() - 1 / 4) < 0.03
    np.testing.assert_allclose(40 * scores, np.round(40 * scores), atol=1e-9)


def test_votes_are_evenly_divided_over_the_factors():
    """A single dimension votes for the factor with the most training votes, the first one here."""
    one, three = FACTORS[:, :1].astype(np.float64), FACTORS[:, :3]
    assert factor_score(one, three, train_votes=10, test_votes=7) == 3 / 7
    assert factor_score(one, three) == 1667 / 5000
    assert factor_score(one, three, train_votes=1, test_votes=1) == 1


def test_factor_score_of_a_noisy_dimension_against_the_f_distribution():
    """z_1 = a + c, z_2 = b, all normal.

    With b fixed z_2 is constant. With a fixed z_1 has half the relative variance of z_2; of 4 examples it then has the
    smaller sample variance with probability F(2), F the distribution function of the F(3, 3) distribution.
    """
    factors = np.random.default_rng(0).integers(0, 100, (20_000, 2))
    a, b = stats.norm.ppf((factors.T + 0.5) / 100)
    codes = np.stack([a + noise(len(a)), b], 1)
    expected = (1 + stats.f(3, 3).cdf(2)) / 2
    assert abs(factor_score(codes, factors, test_votes=10_000, batch=4) - expected) < 0.01
    assert factor_score(codes, factors, batch=64) > 0.99


def test_non_finite_codes_and_constant_factors_raise():
    bad = IDENTITY.copy()
    bad[3, 1] = np.nan
    for score in (mig, sap, dci, factor_score):
        with pytest.raises(InputError, match="NaN or infinite"):
            score(bad, FACTORS)
        with pytest.raises(InputError, match="same value in all examples"):
            score(IDENTITY, np.where(np.arange(4)[None] == 2, 5, FACTORS))


class Scaled(nn.Module):
    """Codes that are the inputs times `scale`."""

    scale: float

    def encode(self, x):
        return self.scale * x[:, 0]

    def __call__(self, x):
        return self.encode(x)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_active_dimensions_of_a_model_are_relative_to_its_prior(scale):
    """To the most variable dimension in a model without a prior."""
    factors = FACTORS[::5, :2].astype(np.int32)
    x = np.concatenate([UNIT[::5, :2], noise(len(factors), 1)], 1) * np.array([[0.1, 0.02, 0.002]]) + 0.5
    split = Split(x[:, None].astype(np.float32), np.zeros(len(x), np.int32), None, factors)

    def loss(variables, batch, key):
        return {"loss": batch.weight}, {}

    def normal(*std):
        return lambda variables, key, n: scale * jnp.array([std]) * jax.random.normal(key, (n, 3))

    for prior, count in ((None, 2), (normal(0.2, 0.2, 0.02), 3), (normal(0.5, 0.5, 0.5), 1)):
        experiment = Experiment(Scaled(scale), descend(loss, optax.sgd(0.1)), loss, prior)
        found = measures(trained(experiment, {}, {}, (1, 3)), Dataset(split, split, ()))["disentanglement"]
        assert found["active_dimensions"] == count
        assert found["factor_vae_score"] == min(count, 2) / 2
