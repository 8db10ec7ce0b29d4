import jax
import jax.numpy as jnp
import numpy as np

from conftest import batch
from jaxae.batch import axis, mean, noise


def test_mean_leaves_padding_out():
    values = jnp.array([1.0, 2.0, 6.0, jnp.pi])
    assert mean(values, batch(jnp.zeros((4, 1)), weight=[1, 1, 1, 0])) == 3
    rows = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(mean(rows, batch(jnp.zeros((4, 1)), weight=[1, 1, 0, 0])), [1, 2])


def test_mean_under_pmap_is_over_all_devices_and_so_is_its_gradient():
    """On one device the mapped axis has size 1; `on_devices.py` does this on 2, 4 and 8."""

    def value(x):
        assert axis() == "data"
        return mean(x**2, batch(jnp.zeros((3, 1))))

    x = jnp.array([1.0, 2.0, 3.0])
    value, slope = jax.pmap(jax.value_and_grad(value), axis_name="data")(x[None])
    np.testing.assert_allclose(value, [14 / 3], rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * x[None] / 3, rtol=1e-6)
    assert axis() is None


def test_noise_belongs_to_the_example_not_to_its_place():
    key, whole = jax.random.key(1), batch(jnp.zeros((6, 1)))
    full = noise(key, whole, (3, 2))
    half = whole._replace(number=whole.number[::-2])
    np.testing.assert_array_equal(noise(key, half, (3, 2)), full[::-2])
    assert len(np.unique(full)) == full.size
    assert not np.any(noise(jax.random.key(2), whole, (3, 2)) == full)


def test_noise_is_standard_normal():
    draws = np.asarray(noise(jax.random.key(0), batch(jnp.zeros((400, 1))), (500,)), np.float64)
    n = draws.size
    assert abs(draws.mean()) < 4 / np.sqrt(n)
    assert abs(draws.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.mean(draws[1:] * draws[:-1])) < 4 / np.sqrt(n)
