import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from conftest import equal, new_key
from jaxae import data
from jaxae.errors import InputError
from jaxae.experiments import dense
from jaxae.measure import mixture

MEANS = np.array([[4.0, 0.0, 1.0], [-4.0, 2.0, 1.0]])
FACTORS = np.array([[[1, 0, 0], [0.8, 0.6, 0], [0, 0, 0.5]], [[0.5, 0, 0], [0, 2, 0], [1, 0, 1]]])


def known(count=20_000):
    """Samples from a mixture, a quarter of them from its first component."""
    rng = np.random.default_rng(0)
    which = (np.arange(count) % 4 > 0).astype(int)
    return MEANS[which] + np.einsum("nij,nj->ni", FACTORS[which], rng.normal(size=(count, 3)))


def test_samples_have_the_moments_of_the_fitted_codes():
    """Weight, mean and covariance of each of two components."""
    z = np.asarray(mixture.fit(known(), 2)(new_key(), 40_000), np.float64)
    first = z[:, 0] > 0
    assert abs(first.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 40_000)
    for part, k in ((z[first], 0), (z[~first], 1)):
        np.testing.assert_allclose(part.mean(0), MEANS[k], atol=0.08)
        np.testing.assert_allclose(np.cov(part.T), FACTORS[k] @ FACTORS[k].T, atol=0.15)


def test_same_key_gives_the_same_samples():
    sampler = mixture.fit(known(1000), 3)
    assert equal(sampler(new_key(), 5), sampler(new_key(), 5))
    assert not equal(sampler(new_key(), 5), sampler(jax.random.key(1), 5))


def test_codes_may_have_any_shape_and_constant_dimensions():
    codes = np.random.default_rng(0).normal(size=(200, 2, 3, 2)).astype(np.float32)
    codes[:, 0, 0, 0] = 1.5
    z = mixture.fit(codes, 4)(new_key(), 300)
    assert z.shape == (300, 2, 3, 2)
    np.testing.assert_allclose(z[:, 0, 0, 0], 1.5, atol=0.01)
    np.testing.assert_allclose(np.std(z[:, 1, 1, 1]), 1, atol=0.2)


def test_covariances_above_64_dimensions_are_diagonal():
    """Samples have the mean and the standard deviation of every dimension, and no correlation."""
    assert mixture.WIDEST == 64
    rng = np.random.default_rng(0)
    scale = np.linspace(0.2, 3, 65)
    codes = 5 + scale * (0.6 * rng.normal(size=(4000, 65)) + 0.8 * rng.normal(size=(4000, 1)))
    z = np.asarray(mixture.fit(codes, 1)(new_key(), 20_000), np.float64)
    np.testing.assert_allclose(z.mean(0), codes.mean(0), atol=4 * 3 / np.sqrt(20_000))
    np.testing.assert_allclose(z.std(0), codes.std(0), rtol=0.03)
    assert abs(np.corrcoef(z.T) - np.eye(65)).max() < 5 / np.sqrt(20_000)


def test_more_components_than_codes_raise():
    with pytest.raises(InputError, match="components=10 must be from 1 to the number of codes, 3"):
        mixture.fit(np.zeros((3, 2)))


@pytest.mark.slow
def test_samples_of_a_mixture_are_closer_to_digits_than_those_of_a_normal():
    """The model is a plain autoencoder, which has no prior."""
    digits = data.load("digits")
    model = jaxae.fit(dense, digits, epochs=30, batch_size=128, hidden=(64,), latent=8, progress=False)
    codes = np.asarray(model.encode(digits.train.x))
    with pytest.raises(ValueError, match="no prior to sample from"):
        model.sample(new_key(), 3)

    def nearest(components):
        made = model.sample(new_key(), 300, mixture.fit(codes, components))
        assert 0 <= made.min() < made.max() <= 1
        flat, there = (jnp.asarray(a).reshape(len(a), -1) for a in (made, model.reconstruct(digits.train.x)))
        square = (flat**2).sum(1)[:, None] + (there**2).sum(1)[None] - 2 * flat @ there.T
        return float(square.min(1).mean())

    assert nearest(20) < 0.8 * nearest(1)
