import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import batch, equal, new_key
from jaxae import data, nets
from jaxae.core.reduction import gradient
from jaxae.core.types import State
from jaxae.experiments import ksparse as experiment
from jaxae.variants import autoencoder, ksparse, tied, top_k

X = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 2, 3)), jnp.float32)


def reference(z, k):
    """A stable sort ranks the first of equal values first."""
    result = np.zeros_like(z)
    for row, kept in zip(z, result, strict=True):
        places = sorted(range(len(row)), key=lambda i: -row[i])[:k]
        kept[places] = row[places]
    return result


@pytest.mark.parametrize("k", [1, 3, 7, 8])
def test_largest_against_numpy(k):
    """Entries are ranked by value, not by magnitude; exactly k are kept, also with ties."""
    rng = np.random.default_rng(1)
    z = np.concatenate([rng.normal(size=(20, 8)), rng.integers(-2, 3, (20, 8)), np.ones((1, 8))]).astype(np.float32)
    found = np.asarray(top_k.largest(jnp.asarray(z), k))
    np.testing.assert_array_equal(found, reference(z, k))
    assert np.all(np.count_nonzero(found[[*range(20), 40]], axis=1) == k)


def test_largest_under_vmap_equals_a_loop_over_seeds():
    z = jax.random.normal(new_key(), (3, 4, 10))
    assert equal(jax.vmap(lambda z: top_k.largest(z, 4))(z), jnp.stack([top_k.largest(one, 4) for one in z]))


def test_gradient_passes_through_the_kept_entries_only():
    z, slope = jax.random.normal(new_key(), (6, 9)), jax.random.normal(jax.random.key(1), (6, 9))
    kept, pull = jax.vjp(lambda z: top_k.largest(z, 4), z)
    expected = np.where(np.asarray(kept) != 0, slope, 0)
    assert np.count_nonzero(expected) == 6 * 4
    np.testing.assert_array_equal(pull(slope)[0], expected)


def model(latent=4, **fields):
    """A model with parameters from N(0, 1)."""
    net = ksparse.KSparse((2, 3), latent, **fields)
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(net.init, new_key(), X)["params"]
    return net, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), shapes)


@pytest.mark.parametrize("training", [True, False])
def test_keeping_all_dimensions_is_the_linear_autoencoder_with_tied_weights(training):
    """Terms and gradient."""
    net, params = model(active=4, alpha=1.0)
    plain = tied.Tied((2, 3), 4, nets.linear, nets.linear)

    def slope(net):
        loss = autoencoder.loss(net, "mse")
        return gradient(lambda p, b: loss({"params": p}, b, new_key()), params, batch(X, training=training))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), slope(net), slope(plain))


@pytest.mark.parametrize(("alpha", "later"), [(1.0, 2), (1.5, 3), (3.0, 6)])
def test_evaluation_keeps_alpha_times_as_many_dimensions(alpha, later):
    """The closed form is the squared error of W'z + c, z the largest entries of x W + b."""
    net, params = model(latent=8, active=2, alpha=alpha)
    flat = np.asarray(X, np.float64).reshape(5, 6)
    w, b, c = (np.asarray(params[name], np.float64) for name in ("kernel", "encoder_bias", "decoder_bias"))
    for training, k in ((True, 2), (False, later)):
        z = reference(flat @ w + b, k)
        pixels = z @ w.T + c
        loss = autoencoder.loss(net, "mse", weight=3.0)
        terms, _ = loss({"params": params}, batch(X, training=training), new_key())
        np.testing.assert_allclose(terms["loss"], 3 * np.mean((pixels - flat) ** 2, axis=1), rtol=1e-5)
        np.testing.assert_allclose(terms["code"], np.abs(z).mean(1), rtol=1e-5)
    codes = net.apply({"params": params}, X, method="encode")
    np.testing.assert_allclose(codes, z, rtol=1e-4, atol=1e-5)
    decoded = net.apply({"params": params}, codes, method="decode")
    assert pixels.min() < 0
    assert pixels.max() > 1
    np.testing.assert_allclose(decoded.reshape(5, 6), pixels, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"active": 20, "active_start": 10, "alpha": 1.0}, "active_start=10 must be at least active=20"),
        ({"active": 33, "alpha": 0.5}, "active=33 alpha=0.5 cannot keep 33 of latent=32 dimensions"),
        ({"active": 20, "alpha": 2.0}, "active=20 alpha=2.0 cannot keep 40 of latent=32 dimensions"),
        ({"active": 20, "alpha": 0.0}, "active=20 alpha=0.0 cannot keep 0 of latent=32 dimensions"),
    ],
)
def test_number_of_active_dimensions_out_of_range_raises(fields, says):
    with pytest.raises(ValueError, match=says):
        experiment.build(experiment.Config(latent=32, **fields), data.Info((28, 28, 1), 100))


@pytest.mark.parametrize(("start", "counts"), [(9, (9, 6, 3, 3)), (100, (12, 8, 3, 3))])
def test_number_of_active_dimensions_decreases_in_the_first_half_of_training(start, counts):
    """From 9, or from all 12 of them, to 3 within 50 of 100 steps; alpha times 3 remain in evaluation."""
    config = experiment.Config(
        latent=12, active=3, active_start=start, alpha=2.0, epochs=5, batch_size=5, optimizer="sgd"
    )
    built = experiment.build(config, data.Info((2, 3), 100))
    params = built.model.init(new_key(), X)["params"]
    before = np.asarray(X).reshape(5, 6) @ np.asarray(params["kernel"])
    state = State(jnp.int32(0), params, built.train.init(params), {})
    codes = [
        built.train.step(state._replace(step=jnp.int32(s)), batch(X).replace(step=jnp.int32(s)), new_key())[1]["code"]
        for s in (0, 25, 50, 99)
    ]
    for code, k in zip(codes, counts, strict=True):
        np.testing.assert_allclose(code, np.abs(reference(before, k)).mean(), rtol=1e-5)
    terms, _ = built.evaluate({"params": params}, batch(X, training=False), new_key())
    np.testing.assert_allclose(terms["code"], np.abs(reference(before, 6)).mean(1), rtol=1e-5)
