"""Bounds of other orders and groups, and their gradients, on a model whose marginal likelihood is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from conftest import batch, new_key
from jaxae.variants import iwae
from jaxae.variants.bounds import Bound, of_samples
from test_iwae import slopes
from test_vae import linear_gaussian, wrong_encoder

LOG_W = np.random.default_rng(0).normal(-3, 2, (5, 12))
ALL = Bound(groups=3, elbo_weight=0.3, alpha=0.4)  # every parameter at once


def of(bound):
    return np.asarray(bound.value(jnp.asarray(LOG_W, jnp.float32)), np.float64)


def reference(bound, log_w):
    """The bound in float64, for an order other than 1."""
    groups = log_w.reshape(len(log_w), bound.groups, -1)
    order, b = 1 - bound.alpha, bound.elbo_weight
    renyi = np.log(np.mean(np.exp(order * groups), axis=2)) / order
    return (b * groups.mean(2) + (1 - b) * renyi).mean(1)


def test_bound_against_numpy():
    np.testing.assert_allclose(of(ALL), reference(ALL, LOG_W), rtol=1e-5)


def test_bound_reduces_to_its_neighbours():
    elbo, importance = LOG_W.mean(1), special.logsumexp(LOG_W, axis=1) - np.log(12)
    for bound in (Bound(groups=12, alpha=0.4), Bound(3, elbo_weight=1.0), Bound(3, alpha=1.0)):
        np.testing.assert_allclose(of(bound), elbo, rtol=1e-5)
    for bound in (Bound(), of_samples(12, groups=4, groups_of="encoder").decoder):
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
def test_slopes_and_factors_are_those_of_finite_differences(bound):
    """Factors are 1 - c d^2 L / (d log w_k)^2 / (d L / d log w_k)."""
    step = 1e-3 * np.eye(12)[:, None]  # one log weight at a time
    low, middle, high = ([reference(bound, LOG_W + sign * row) for row in step] for sign in (-1, 0, 1))
    first, second = (
        np.transpose(part) for part in (np.subtract(high, low) / 2e-3, np.diff([low, middle, high], 2, 0)[0] / 1e-6)
    )
    log_w = jnp.asarray(LOG_W, jnp.float32)
    np.testing.assert_allclose(bound.slopes(log_w), first, atol=1e-5)
    np.testing.assert_allclose(bound.factors(log_w, jnp.float32(0.7)), 1 - 0.7 * second / first, atol=1e-3)


def test_factors_of_a_weight_of_zero_are_finite():
    assert np.isfinite(Bound().factors(jnp.array([[0.0, -1e4]]), jnp.float32(1.0))).all()


def test_decoder_and_encoder_follow_the_gradients_of_their_bounds():
    model, params, x, _ = wrong_encoder()
    partial = of_samples(6, groups=3, groups_of="encoder", alpha=0.4)
    found, both, none = (
        slopes("plain", params, model, x[:5], 6, 1, 0.3, bounds=each)
        for each in (partial, of_samples(6, groups=3, alpha=0.4), of_samples(6, alpha=0.4))
    )
    np.testing.assert_allclose(found["encoder"], both["encoder"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["decoder"], none["decoder"], rtol=1e-4, atol=1e-6)
    assert np.abs(both["encoder"] - none["encoder"]).max() > 1e-2 < np.abs(both["decoder"] - none["decoder"]).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gradient", "bound"),
    [
        ("stl", of_samples(6, alpha=1.0)),
        ("dreg", of_samples(6, groups=2, elbo_weight=0.3, alpha=0.4)),
        ("dreg", of_samples(6, groups=2)),
        ("dreg", of_samples(6, groups=2, groups_of="encoder")),
        ("dreg", of_samples(6, elbo_weight=0.3)),
        ("dreg", of_samples(6, alpha=0.4)),
    ],
    ids=["stl", "all", "groups", "groups of the encoder", "combination", "order"],
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


@pytest.mark.slow
def test_sticking_the_landing_is_biased_for_the_importance_weighted_bound():
    model, params, x, _ = wrong_encoder()
    plain, stl = (slopes(kind, params, model, x[:5], 6, 1000)["encoder"] for kind in ("plain", "stl"))
    apart = plain - stl
    assert np.abs(apart.mean(0) / (apart.std(0) / np.sqrt(1000))).max() > 10


def test_sticking_the_landing_is_zero_at_the_exact_posterior():
    model, params, x, _ = linear_gaussian()
    found = slopes("stl", params, model, x[:5], 4, 1, bounds=of_samples(4, elbo_weight=1.0))
    assert np.abs(found["encoder"]).max() < 1e-4 < 1e-2 < np.abs(found["decoder"]).max()


def test_loss_is_the_negative_bound_of_the_decoder():
    model, params, x, _ = wrong_encoder()
    partial = of_samples(6, groups=3, groups_of="encoder", elbo_weight=0.3, alpha=0.4)
    examples, variables = batch(x[:5]), {"params": params}
    terms, _ = iwae.loss(model, 6, "stl", 0.7, partial)(variables, examples, new_key())
    q = model.apply(variables, examples.x, method="posterior")
    z = q.samples(examples.noise(new_key(), (6, 2)))
    log_w = iwae.densities(model)(variables, (examples.x, None), q, z).log_weights(0.7)
    np.testing.assert_allclose(terms["loss"], -reference(partial.decoder, np.asarray(log_w, np.float64)), rtol=1e-5)


@pytest.mark.parametrize(("fields", "message"), [({"groups": 4}, "groups=4"), ({"elbo_weight": 1.5}, "elbo_weight")])
def test_indivisible_groups_and_weights_outside_0_1_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        of_samples(6, **fields)
