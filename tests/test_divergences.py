import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxae.core import divergences
from jaxae.core.divergences import DiagonalNormal

rng = np.random.default_rng(0)


def test_per_example_sums_all_axes_but_the_first():
    x = rng.normal(size=(3, 4, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(divergences.per_example(jnp.asarray(x)), x.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(divergences.per_example(jnp.asarray(x[:, 0, 0, 0])), x[:, 0, 0, 0])


def test_normal_against_scipy():
    mean, log_scale, x = rng.normal(size=(3, 4, 2, 3)).astype(np.float32)
    p = DiagonalNormal(*map(jnp.asarray, (mean, log_scale)))
    expected = stats.norm(mean, np.exp(log_scale)).logpdf(x)
    np.testing.assert_allclose(divergences.log_normal_terms(p, jnp.asarray(x)), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(divergences.log_normal(p, jnp.asarray(x)), expected.sum((1, 2)), rtol=1e-4)


def test_standard_normal_against_scipy():
    x = rng.normal(size=(5, 3)).astype(np.float32)
    ours = divergences.log_normal(divergences.standard_normal(jnp.asarray(x)), jnp.asarray(x))
    np.testing.assert_allclose(ours, stats.norm.logpdf(x).sum(1), rtol=1e-5)


def test_kl_against_the_formula_in_float64():
    mean, log_scale = rng.normal(size=(2, 7, 3))
    variance = np.exp(2 * log_scale)
    expected = 0.5 * (mean**2 + variance - 1 - np.log(variance))
    q = DiagonalNormal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_scale, jnp.float32))
    np.testing.assert_allclose(divergences.kl_normal_terms(q), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(divergences.kl_normal(q), expected.sum(1), rtol=1e-5)


def test_kl_is_zero_only_at_the_prior():
    zero = jnp.zeros((1, 4))
    assert divergences.kl_normal(divergences.standard_normal(zero))[0] == 0
    for q in (DiagonalNormal(zero + 0.1, zero), DiagonalNormal(zero, zero + 0.1), DiagonalNormal(zero, zero - 0.1)):
        assert divergences.kl_normal(q)[0] > 0.01


def test_kl_against_monte_carlo():
    q = DiagonalNormal(jnp.array([[0.5, -1.0, 0.0]]), jnp.array([[-0.5, 0.3, 0.1]]))
    n = 200_000
    z = q.mean + jnp.exp(q.log_scale) * jax.random.normal(jax.random.key(0), (n, 3))
    many = DiagonalNormal(*(jnp.broadcast_to(v, (n, 3)) for v in q))
    ratio = divergences.log_normal(many, z) - divergences.log_normal(divergences.standard_normal(z), z)
    samples = np.asarray(ratio, np.float64)
    error = samples.std() / np.sqrt(n)
    assert abs(samples.mean() - float(divergences.kl_normal(q)[0])) < 4 * error < 0.02


def test_discrimination_is_the_cross_entropy_of_real_as_one_and_fake_as_zero():
    """0 for perfect classification, unbounded for wrong classification, and not symmetric in real and fake."""
    real, fake = rng.normal(size=(2, 6)).astype(np.float32) + np.array([[2.0], [-1.0]], np.float32)
    expected = -np.log(special.expit(np.float64(real))) - np.log(1 - special.expit(np.float64(fake)))
    np.testing.assert_allclose(divergences.discrimination(*map(jnp.asarray, (real, fake))), expected, rtol=1e-5)
    at = divergences.discrimination(jnp.array([0.0, 50.0, -50.0]), jnp.array([0.0, -50.0, 50.0]))
    np.testing.assert_allclose(at, [2 * np.log(2), 0, 100], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("samples", [1, 5])
def test_importance_weighted_is_the_log_of_the_mean_weight(samples):
    log_w = rng.normal(size=(4, samples)) * 3
    ours = divergences.importance_weighted(jnp.asarray(log_w, jnp.float32))
    np.testing.assert_allclose(ours, np.log(np.exp(log_w).mean(1)), rtol=1e-5)
    far = divergences.importance_weighted(jnp.asarray(log_w - 1000, jnp.float32))  # weights that are 0 in float32
    np.testing.assert_allclose(far + 1000, np.log(np.exp(log_w).mean(1)), atol=1e-3)
