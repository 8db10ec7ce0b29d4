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


@pytest.mark.parametrize("run", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_kl_and_its_gradient_keep_all_digits(run):
    """Over all permitted log scales, and down to variances that differ from 1 by 2e-8."""
    small = np.logspace(-8, 0, 33)
    log_scale = np.concatenate([np.linspace(-20, 20, 401), small, -small]).astype(np.float32)
    mean, log_scale = np.meshgrid(np.float32([0, 1e-6, 0.3, -40]), log_scale)
    q = DiagonalNormal(jnp.asarray(mean), jnp.asarray(log_scale))
    terms, pull = run(lambda q: jax.vjp(divergences.kl_normal_terms, q))(q)
    exact, s = mean.astype(np.float64), log_scale.astype(np.float64)
    np.testing.assert_allclose(terms, 0.5 * (exact**2 + np.expm1(2 * s) - 2 * s), rtol=1e-6)
    (slope,) = pull(jnp.ones(mean.shape))
    np.testing.assert_array_equal(slope.mean, mean)
    np.testing.assert_allclose(slope.log_scale, np.expm1(2 * s), rtol=1e-6)


@pytest.mark.parametrize("log_scale", [-20.5, -44.5, -88.8, -1e4, -3e38, 20.5, 44.5, 88.8, 1e4, 3e38])
def test_log_scales_are_clipped_and_gradients_are_those_at_the_limit(log_scale):
    """Values and gradients are finite, and equal float64 ones; gradients outside the limits are not zero."""
    x = jnp.array([[1.0, 1.5, -1e9, 1e9]])
    mean, limit = jnp.ones((1, 4)), np.clip(log_scale, -20, 20)

    def both(f, s):
        q = DiagonalNormal(mean, jnp.full((1, 4), s))
        value, pull = jax.jit(lambda q: jax.vjp(f, q))(q)
        return value, pull(jnp.ones_like(value))[0].log_scale

    variance, square = np.exp(2 * limit), (np.asarray(x, np.float64) - 1) ** 2
    expected = {
        "density": (stats.norm(1, np.exp(limit)).logpdf(np.float64(x)), square / variance - 1),
        "divergence": (0.5 * (1 + variance - 1) - limit, variance - 1),
        "sample": (1 + np.exp(limit) * np.float64(x), np.exp(limit) * np.float64(x)),
    }
    found = {
        "density": both(lambda q: divergences.log_normal_terms(q, x), log_scale),
        "divergence": both(divergences.kl_normal_terms, log_scale),
        "sample": both(lambda q: q.mean + q.scale * x, log_scale),
    }
    for name, (value, slope) in found.items():
        np.testing.assert_allclose(value, np.broadcast_to(expected[name][0], (1, 4)), rtol=2e-6, err_msg=name)
        np.testing.assert_allclose(slope, np.broadcast_to(expected[name][1], (1, 4)), rtol=2e-6, err_msg=name)


def test_log_scale_outside_its_limits_returns():
    """Training brings it back from either side."""
    step = jax.jit(jax.grad(lambda s: divergences.kl_normal(DiagonalNormal(jnp.ones((1, 1)), s))[0]))
    for start in (25.0, -25.0):
        s = jnp.full((1, 1), start)
        for _ in range(6):
            s -= jnp.sign(step(s))
        assert abs(s[0, 0]) == 19


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
