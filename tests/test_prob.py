import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxae import prob

rng = np.random.default_rng(0)


def test_per_example_sums_all_axes_but_the_first():
    x = rng.normal(size=(3, 4, 5, 2)).astype(np.float32)
    np.testing.assert_allclose(prob.per_example(jnp.asarray(x)), x.sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(prob.per_example(jnp.asarray(x[:, 0, 0, 0])), x[:, 0, 0, 0])


def test_bernoulli_against_scipy():
    logits, x = rng.normal(size=(5, 6)), rng.integers(0, 2, size=(5, 6))
    expected = stats.bernoulli(1 / (1 + np.exp(-logits))).logpmf(x).sum(1)
    ours = prob.bernoulli(jnp.asarray(logits, jnp.float32), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
def test_bernoulli_and_its_gradient_stay_finite(logit):
    for x in (0.0, 1.0):
        value, slope = jax.value_and_grad(lambda v: prob.bernoulli(v[None, None], jnp.full((1, 1), x))[0])(  # noqa: B023
            jnp.float32(logit)
        )
        assert value == (0 if (logit > 0) == (x == 1) else -abs(logit))
        assert slope == x - (logit > 0)


def test_cross_entropy_and_its_gradient_against_float64():
    """On grey pixels too, and where the formula has a corner: at 0."""
    logits, x = np.meshgrid([-30.0, -3.0, -1e-3, 0.0, 1e-3, 0.7, 20.0], [0.0, 0.2, 0.5, 1.0])
    s = 1 / (1 + np.exp(-logits))
    value, pull = jax.vjp(prob.cross_entropy, jnp.asarray(logits, jnp.float32), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(value, np.logaddexp(0, logits) - x * logits, rtol=1e-6, atol=20 * 2**-23)
    np.testing.assert_allclose(pull(jnp.ones(logits.shape))[0], s - x, rtol=1e-5, atol=3e-8)


def test_normal_against_scipy():
    mean, log_scale, x = rng.normal(size=(3, 4, 2, 3)).astype(np.float32)
    p = prob.Normal(*map(jnp.asarray, (mean, log_scale)))
    expected = stats.norm(mean, np.exp(log_scale)).logpdf(x).sum((1, 2))
    np.testing.assert_allclose(prob.normal(p, jnp.asarray(x)), expected, rtol=1e-4)


def test_kl_against_the_formula_in_float64():
    mean, log_scale = rng.normal(size=(2, 7, 3))
    variance = np.exp(2 * log_scale)
    expected = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(1)
    q = prob.Normal(jnp.asarray(mean, jnp.float32), jnp.asarray(log_scale, jnp.float32))
    np.testing.assert_allclose(prob.kl_normal(q), expected, rtol=1e-5)


def test_kl_is_zero_only_at_the_prior():
    zero = jnp.zeros((1, 4))
    assert prob.kl_normal(prob.Normal(zero, zero))[0] == 0
    for q in (prob.Normal(zero + 0.1, zero), prob.Normal(zero, zero + 0.1), prob.Normal(zero, zero - 0.1)):
        assert prob.kl_normal(q)[0] > 0.01


def test_kl_against_monte_carlo():
    q = prob.Normal(jnp.array([[0.5, -1.0, 0.0]]), jnp.array([[-0.5, 0.3, 0.1]]))
    n = 200_000
    z = q.mean + jnp.exp(q.log_scale) * jax.random.normal(jax.random.key(0), (n, 3))
    prior = prob.Normal(jnp.zeros((n, 3)), jnp.zeros((n, 3)))
    many = prob.Normal(*(jnp.broadcast_to(v, (n, 3)) for v in q))
    draws = np.asarray(prob.normal(many, z) - prob.normal(prior, z), np.float64)
    error = draws.std() / np.sqrt(n)
    assert abs(draws.mean() - float(prob.kl_normal(q)[0])) < 4 * error < 0.02
