"""Bounds of other orders and groups, and their gradients, on a model whose marginal likelihood is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from conftest import batch, new_key
from jaxae.variants import iwae
from jaxae.variants.bounds import IMPORTANCE_WEIGHTED, Bound, bounds
from test_iwae import slopes
from test_vae import linear_gaussian, means, wrong_encoder

LOG_W = np.random.default_rng(0).normal(-3, 2, (5, 12))
ALL = Bound(groups=3, elbo_weight=0.3, alpha=0.4)  # every parameter at once


def of(bound):
    return np.asarray(bound.value(jnp.asarray(LOG_W, jnp.float32)), np.float64)


def test_bound_against_numpy():
    groups = LOG_W.reshape(5, 3, 4)
    renyi = np.log(np.mean(np.exp(0.6 * groups), axis=2)) / 0.6
    np.testing.assert_allclose(of(ALL), (0.3 * groups.mean(2) + 0.7 * renyi).mean(1), rtol=1e-5)


def test_bound_reduces_to_its_neighbours():
    elbo, importance = LOG_W.mean(1), special.logsumexp(LOG_W, axis=1) - np.log(12)
    for bound in (Bound(groups=12, alpha=0.4), Bound(3, elbo_weight=1.0), Bound(3, alpha=1.0)):
        np.testing.assert_allclose(of(bound), elbo, rtol=1e-5)
    for bound in (Bound(), bounds(12, groups=4, groups_of="encoder").decoder):
        np.testing.assert_allclose(of(bound), importance, rtol=1e-5)
    np.testing.assert_allclose(of(Bound(alpha=-200.0)), LOG_W.max(1) - np.log(12) / 201, rtol=1e-4)
    np.testing.assert_allclose(of(Bound(alpha=0.999)), elbo, rtol=2e-2)


def test_bound_increases_with_the_samples_of_a_group_and_decreases_with_alpha():
    values = np.array([of(Bound(groups)) for groups in (12, 6, 4, 3, 2, 1)]).mean(1)
    orders = np.array([of(Bound(alpha=alpha)) for alpha in (3.0, 1.0, 0.5, 0.0, -2.0)])
    assert np.all(np.diff(values) > 0)
    assert np.all(np.diff(orders, axis=0) > 0)


def test_renyi_bound_of_many_samples_is_its_closed_form():
    """x = 0.8 z + 0.5 noise and q = N(0.3, 0.9^2): log w = c + b z + a z^2, at the quantiles of q."""
    x, alpha = 1.2, 0.4
    z = stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000, 0.3, 0.9)
    log_w = stats.norm.logpdf(x, 0.8 * z, 0.5) + stats.norm.logpdf(z) - stats.norm.logpdf(z, 0.3, 0.9)
    found = Bound(alpha=alpha).value(jnp.asarray(log_w[None], jnp.float32))[0]
    precision = alpha / 0.9**2 + (1 - alpha) * (0.8**2 / 0.5**2 + 1)
    linear = alpha * 0.3 / 0.9**2 + (1 - alpha) * 0.8 * x / 0.5**2
    constant = -0.5 * (alpha * 0.3**2 / 0.9**2 + (1 - alpha) * x**2 / 0.5**2)
    scales = -alpha * np.log(0.9) - (1 - alpha) * np.log(0.5 * np.sqrt(2 * np.pi))
    log_mean = constant + linear**2 / (2 * precision) + scales - 0.5 * np.log(precision)
    np.testing.assert_allclose(found, log_mean / (1 - alpha), rtol=2e-4)


@pytest.mark.parametrize("bound", [Bound(), Bound(elbo_weight=1.0), ALL], ids=["importance", "evidence", "all"])
def test_factors_are_those_of_the_second_derivative(bound):
    """1 - c d^2 L / (d log w_k)^2 / (d L / d log w_k)."""
    log_w = jnp.asarray(LOG_W, jnp.float32)
    second = jax.vmap(jax.hessian(lambda row: bound.value(row[None])[0]))(log_w)
    first = bound.slopes(log_w)
    expected = 1 - 0.7 * np.diagonal(second, axis1=1, axis2=2) / first
    np.testing.assert_allclose(bound.factors(log_w, jnp.float32(0.7)), expected, atol=1e-4)


def test_factors_of_a_weight_of_zero_are_finite():
    assert np.isfinite(Bound().factors(jnp.array([[0.0, -1e4]]), jnp.float32(1.0))).all()


def test_decoder_and_encoder_follow_the_gradients_of_their_bounds():
    model, params, x, _ = wrong_encoder()
    partial = bounds(6, groups=3, groups_of="encoder", alpha=0.4)
    found, both, none = (
        slopes("plain", params, model, x[:5], 6, 1, 0.3, bounds=each)
        for each in (partial, bounds(6, groups=3, alpha=0.4), bounds(6, alpha=0.4))
    )
    np.testing.assert_allclose(found["encoder"], both["encoder"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["decoder"], none["decoder"], rtol=1e-4, atol=1e-6)
    assert np.abs(both["encoder"] - none["encoder"]).max() > 1e-2 < np.abs(both["decoder"] - none["decoder"]).max()


@pytest.mark.parametrize(
    ("gradient", "bound"),
    [
        ("dreg", bounds(6, groups=2, elbo_weight=0.3, alpha=0.4)),
        ("stl", bounds(6, alpha=1.0)),
        pytest.param("dreg", bounds(6, groups=2), marks=pytest.mark.slow),
        pytest.param("dreg", bounds(6, groups=2, groups_of="encoder"), marks=pytest.mark.slow),
        pytest.param("dreg", bounds(6, elbo_weight=0.3), marks=pytest.mark.slow),
        pytest.param("dreg", bounds(6, alpha=0.4), marks=pytest.mark.slow),
    ],
    ids=["dreg of all", "stl", "dreg of groups", "dreg of groups of the encoder", "dreg of both", "dreg of an order"],
)
def test_gradients_have_the_same_expectation(gradient, bound):
    model, params, x, _ = wrong_encoder()
    count = 4000
    plain, other = (slopes(kind, params, model, x[:5], 6, count, 0.7, bounds=bound) for kind in ("plain", gradient))
    np.testing.assert_allclose(plain["decoder"], other["decoder"], rtol=1e-3, atol=1e-4)
    apart = plain["encoder"] - other["encoder"]
    errors = apart.std(0) / np.sqrt(count)
    assert np.all(np.abs(apart.mean(0)) < 4.5 * errors)
    assert np.abs(other["encoder"].mean(0) / errors).max() > 15  # a wrong factor would show


def test_sticking_the_landing_is_biased_for_the_importance_weighted_bound():
    model, params, x, _ = wrong_encoder()
    plain, stl = (slopes(kind, params, model, x[:5], 6, 1000)["encoder"] for kind in ("plain", "stl"))
    apart = plain - stl
    assert np.abs(apart.mean(0) / (apart.std(0) / np.sqrt(1000))).max() > 10


def test_sticking_the_landing_is_zero_at_the_exact_posterior():
    model, params, x, _ = linear_gaussian()
    found = slopes("stl", params, model, x[:5], 4, 1, bounds=bounds(4, elbo_weight=1.0))
    assert np.abs(found["encoder"]).max() < 1e-4 < 1e-2 < np.abs(found["decoder"]).max()


def test_loss_is_the_negative_bound_of_the_decoder():
    model, params, x, exact = linear_gaussian()
    for bound in (IMPORTANCE_WEIGHTED, bounds(6, groups=2, elbo_weight=0.3, alpha=0.4)):
        found = means(iwae.loss(model, 6, bounds=bound), params, batch(x), new_key())
        np.testing.assert_allclose(-found["loss"], exact, rtol=1e-5)  # w is p(x) for every sample


@pytest.mark.parametrize(("fields", "message"), [({"groups": 4}, "groups=4"), ({"elbo_weight": 1.5}, "elbo_weight")])
def test_bounds_that_make_no_sense_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        bounds(6, **fields)
