"""Spectra and distances of signals against SciPy and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxae.variants import spectra

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 90, 2))
Y = X + 0.3 * rng.normal(size=X.shape)
LENGTHS = np.array([90, 41, 8])
MASK = (np.arange(90) < LENGTHS[:, None]).astype(np.float32)
WINDOWS = (8, 32)
FLOOR = 1e-6


def reference(x, window):
    """|STFT|^2 / sum w^2 of SciPy: [..., T] -> [..., F, K], of the frames centred below T."""
    weights, frames = signal.get_window("hann", window), -(-x.shape[-1] // (window // 4))
    x = np.concatenate([x, np.zeros((*x.shape[:-1], window))], -1)
    z = signal.stft(x, window=weights, noverlap=window - window // 4, nperseg=window)[2] * weights.sum()
    return (np.abs(z) ** 2).swapaxes(-1, -2)[..., :frames, :] / np.sum(weights**2)


@pytest.mark.parametrize(("window", "steps"), [(8, 90), (32, 88), (128, 90), (4, 5)])
def test_power_against_scipy(window, steps):
    x = X[:, :steps, 0]
    found = spectra.power(jnp.asarray(x, jnp.float32), window)
    assert found.shape == (3, -(-steps // (window // 4)), window // 2 + 1)
    np.testing.assert_allclose(found, reference(x, window), rtol=1e-3, atol=1e-5)


def test_white_noise_has_a_power_of_one_and_a_sine_that_of_its_amplitude():
    noise = spectra.power(jnp.asarray(rng.normal(size=50_000), jnp.float32), 64)
    np.testing.assert_allclose(noise[2:-2].mean(0), 1, atol=0.15)
    sine = 3 * np.sin(2 * np.pi * 8 / 64 * np.arange(640))
    found = np.asarray(spectra.power(jnp.asarray(sine, jnp.float32), 64))[4:-4]
    np.testing.assert_allclose(found[:, 8], (3 * 64 / 4) ** 2 / (64 * 3 / 8), rtol=1e-4)
    assert np.abs(found[:, 12:]).max() < 1e-6


def test_window_must_be_a_multiple_of_four():
    with pytest.raises(ValueError, match="window=6 must be a multiple of 4"):
        spectra.power(jnp.zeros(9), 6)


def referenced(mask):
    """Convergence, mean |log X - log Y| and log-spectral distance, by loops over examples and windows."""
    x, y = (a * mask[..., None] for a in (X, Y))
    rows = []
    for a, b, length in zip(x, y, mask.sum(1).astype(int), strict=True):
        each = []
        for window in WINDOWS:
            frames = -(-length // (window // 4))
            p, q = (reference(part.T, window)[:, :frames] + FLOOR for part in (a, b))
            difference = np.sqrt(p) - np.sqrt(q)
            convergence = np.linalg.norm(difference) / np.linalg.norm(np.sqrt(p))
            logarithm = np.abs(np.log(np.sqrt(p)) - np.log(np.sqrt(q))).mean()
            decibels = 10 * np.log10(p) - 10 * np.log10(q)
            each.append((convergence, logarithm, np.sqrt((decibels**2).mean(-1)).mean()))
        rows.append([*np.mean(each, 0)[:2], each[1][2]])
    return np.array(rows).T


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
def test_distances_against_scipy(mask):
    inside = np.ones((3, 90), np.float32) if mask is None else mask
    x, y = (jnp.asarray(a * inside[..., None], jnp.float32) for a in (X, Y))
    given = None if mask is None else jnp.asarray(mask)
    found = jax.jit(spectra.spectral_distances, static_argnums=2)(x, y, WINDOWS, given)
    expected = referenced(inside)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)
    np.testing.assert_allclose(spectra.log_spectral_distance(x, y, 32, given), expected[2], rtol=1e-4)


def test_a_gain_is_a_distance_in_decibels():
    x = jnp.asarray(100 * X, jnp.float32)
    np.testing.assert_allclose(spectra.log_spectral_distance(x, 2 * x, 32), 20 * np.log10(2), rtol=1e-4)
    convergence, logarithm = spectra.spectral_distances(x, 2 * x, (32,))
    np.testing.assert_allclose(convergence, 1, rtol=1e-4)
    np.testing.assert_allclose(logarithm, np.log(2), rtol=1e-4)


def test_gradient_is_finite_for_silence_and_for_equal_signals():
    def total(y, x):
        return sum(part.sum() for part in spectra.spectral_distances(x, y, (8,)))

    x, slope = jnp.asarray(X, jnp.float32), jax.jit(jax.grad(total))
    for before, after in ((x, jnp.zeros_like(x)), (jnp.zeros_like(x), x), (x, x)):
        assert np.isfinite(slope(after, before)).all()


def test_signal_to_distortion_against_numpy_and_for_any_scale():
    x, y = X.reshape(3, -1), Y.reshape(3, -1)
    scale = (x * y).sum(1) / (x**2).sum(1)
    target = scale[:, None] * x
    expected = 10 * np.log10((target**2).sum(1) / ((target - y) ** 2).sum(1))
    a, b = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    np.testing.assert_allclose(spectra.signal_to_distortion(a, b), expected, rtol=1e-4)
    np.testing.assert_allclose(spectra.signal_to_distortion(a, -5 * b), expected, rtol=1e-4)
    assert np.isfinite(spectra.signal_to_distortion(a, 0 * b)).all()
