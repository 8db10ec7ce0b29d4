import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import batch, equal, new_key
from experiments import ksparse as experiment
from jaxae import data, nets
from jaxae.errors import InputError
from jaxae.variants import autoencoder, ksparse, tied

X = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 2, 3)), jnp.float32)


def reference(z, k):
    """A stable sort puts the first of equal units first."""
    result = np.zeros_like(z)
    for row, kept in zip(z, result, strict=True):
        places = sorted(range(len(row)), key=lambda i: -row[i])[:k]
        kept[places] = row[places]
    return result


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_largest_against_numpy(k):
    """Negative numbers are the smallest, however large their size; of equal ones exactly as many as there is room."""
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal(size=(20, 8)), rng.integers(-2, 3, (20, 8)), np.ones((1, 8))]).astype(np.float32)
    found = np.asarray(ksparse.largest(jnp.asarray(z), k))
    np.testing.assert_array_equal(found, reference(z, k))
    assert np.all(np.count_nonzero(found[[*range(20), 40]], axis=1) == k)


def test_largest_is_the_same_for_seeds_at_once():
    z = jax.random.normal(new_key(), (3, 4, 10))
    assert equal(jax.vmap(lambda z: ksparse.largest(z, 4))(z), jnp.stack([ksparse.largest(one, 4) for one in z]))


def test_gradient_passes_the_kept_alone():
    z, slope = jax.random.normal(new_key(), (6, 9)), jax.random.normal(jax.random.key(1), (6, 9))
    kept, pull = jax.vjp(lambda z: ksparse.largest(z, 4), z)
    expected = np.where(np.asarray(kept) != 0, slope, 0)
    assert np.count_nonzero(expected) == 6 * 4
    np.testing.assert_array_equal(pull(slope)[0], expected)


def model(latent=4, **fields):
    """Its parameters from N(0, 1)."""
    net = ksparse.KSparse((2, 3), latent, **fields)
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(net.init, new_key(), X)["params"]
    return net, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), shapes)


@pytest.mark.parametrize("train", [True, False])
def test_all_units_are_the_plain_autoencoder(train):
    """Loss and gradient, of a linear one with tied weights."""
    net, params = model(active=4)
    plain = tied.Tied((2, 3), 4, nets.linear, nets.linear)

    def slope(net):
        loss = autoencoder.loss(net, "mse", train=train)
        return jax.value_and_grad(lambda p: loss(p, {}, batch(X), new_key())[0])(params)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), slope(net), slope(plain))


@pytest.mark.parametrize(("alpha", "later"), [(1.0, 2), (1.5, 3), (3.0, 6)])
def test_more_units_after_training(alpha, later):
    """In closed form: squared error of W'z + c, z the largest of x W + b."""
    net, params = model(latent=8, active=2, alpha=alpha)
    flat = np.asarray(X, np.float64).reshape(5, 6)
    w, b, c = (np.asarray(params[name], np.float64) for name in ("kernel", "encoder_bias", "decoder_bias"))
    for train, k in ((True, 2), (False, later)):
        z = reference(flat @ w + b, k)
        pixels = z @ w.T + c
        value, (_, metrics) = autoencoder.loss(net, "mse", train=train)(params, {}, batch(X), new_key())
        np.testing.assert_allclose(value, np.mean((pixels - flat) ** 2), rtol=1e-5)
        np.testing.assert_allclose(metrics["code"], np.abs(z).mean(), rtol=1e-5)
    codes = net.apply({"params": params}, X, method="encode")
    np.testing.assert_allclose(codes, z, rtol=1e-4, atol=1e-5)
    decoded = net.apply({"params": params}, codes, method="decode")
    assert pixels.min() < 0
    assert pixels.max() > 1
    np.testing.assert_allclose(decoded.reshape(5, 6), pixels.clip(0, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"active": 33, "alpha": 0.5}, "--active 33 --alpha 0.5: cannot keep 33 of 32 units"),
        ({"active": 20, "alpha": 2.0}, "--active 20 --alpha 2.0: cannot keep 40 of 32 units"),
        ({"active": 20, "alpha": 0.0}, "--active 20 --alpha 0.0: cannot keep 0 of 32 units"),
    ],
)
def test_numbers_that_cannot_be_kept_are_refused(fields, says):
    with pytest.raises(InputError, match=says):
        experiment.build(experiment.Config(latent=32, **fields), data.Info((28, 28, 1), 100))
