import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import batch, equal, new_key, trained
from jaxae import data, nets
from jaxae.core.types import State
from jaxae.experiments import fsq as experiment
from jaxae.measure import codebook
from jaxae.variants import autoencoder
from jaxae.variants import fsq as model_of
from jaxae.variants.quantize import fsq

LEVELS = (8, 5, 4, 3)


def test_rounding_the_bound_gives_exactly_the_levels():
    """Monotonic, 0 at 0; rounding gives every level and no other value."""
    z = jnp.linspace(-30, 30, 20_001)[:, None]
    for levels in range(3, 10):
        bounded = np.asarray(fsq.bound(z, (levels,)))[:, 0]
        assert np.diff(bounded).min() > -1e-5
        assert abs(bounded[10_000]) < 1e-6
        low = -(levels // 2)
        assert np.array_equal(np.unique(np.round(bounded)), np.arange(low, low + levels))
        np.testing.assert_allclose(bounded[[0, -1]], [low, low + levels - 1], atol=1e-5)


def test_bound_against_the_formula():
    z = np.random.default_rng(0).normal(size=(6, 7, 4)) * 3
    half = np.array([3.5, 2, 1.5, 1])
    offset = np.array([0.5, 0, 0.5, 0])
    expected = half * np.tanh(z + np.arctanh(offset / half)) - offset
    np.testing.assert_allclose(fsq.bound(jnp.asarray(z, jnp.float32), LEVELS), expected, rtol=1e-5, atol=1e-5)


def test_codes_are_the_nearest_points_of_the_grid():
    z = 3 * jax.random.normal(new_key(), (500, 4))
    codes = np.asarray(fsq.quantize(z, LEVELS))
    grid = [np.arange(-4, 4) / 4, np.arange(-2, 3) / 2, np.arange(-2, 2) / 2, np.arange(-1, 2)]
    bounded = np.asarray(fsq.bound(z, LEVELS))
    for i, (points, middle) in enumerate(zip(grid, (4, 2, 2, 1), strict=True)):
        distance = np.abs(bounded[:, i, None] / middle - points)
        assert np.array_equal(codes[:, i], points[distance.argmin(1)])
        assert np.array_equal(np.unique(codes[:, i]), points)


def test_gradient_is_that_of_the_bound():
    """Straight-through estimator: rounding has the gradient of the identity."""
    z = jax.random.normal(new_key(), (50, 4))
    slope = jax.grad(lambda z: jnp.sum(fsq.quantize(z, LEVELS) ** 3))(z)
    half, offset, middle = np.array([[3.5, 2, 1.5, 1], [0.5, 0, 0.5, 0], [4, 2, 2, 1]])
    steep = half / np.cosh(np.asarray(z, np.float64) + np.arctanh(offset / half)) ** 2 / middle
    codes = np.asarray(fsq.quantize(z, LEVELS), np.float64)
    np.testing.assert_allclose(slope, 3 * codes**2 * steep, rtol=1e-4, atol=1e-6)


def test_index_and_code_are_a_bijection():
    numbers = jnp.arange(8 * 5 * 4 * 3)
    codes = fsq.code(numbers, LEVELS)
    assert len(np.unique(np.asarray(codes), axis=0)) == 480
    assert equal(fsq.index(codes, LEVELS), numbers)
    assert equal(fsq.index(codes.reshape(10, 6, 8, 4), LEVELS), numbers.reshape(10, 6, 8))
    by_hand = np.array([0.25, 0, -1, 1])  # levels 5, 2, 0 and 2 from below
    assert int(fsq.index(jnp.asarray(by_hand, jnp.float32), LEVELS)) == 5 + 8 * 2 + 40 * 0 + 160 * 2
    z = 3 * jax.random.normal(new_key(), (100, 4))
    reached = fsq.quantize(z, LEVELS)
    np.testing.assert_array_equal(fsq.code(fsq.index(reached, LEVELS), LEVELS), reached)


def small():
    model = model_of.FSQ(nets.MLP((), (2, 4), axes=3), nets.MLP((), (3, 3, 1), axes=2), levels=LEVELS)
    x = jax.random.uniform(new_key(), (5, 3, 3, 1))
    return model, model.init(new_key(), x)["params"], x


def test_loss_is_the_cross_entropy_of_decoded_codes_alone():
    model, params, x = small()
    z = model.apply({"params": params}, 20 * x, method="encode")
    numbers = model.apply({"params": params}, 20 * x, method="indices")
    assert equal(fsq.code(numbers, LEVELS), z + 0)
    assert (model.codes, len(np.unique(numbers)) > 1) == (480, True)
    terms, _ = jax.jit(autoencoder.loss(model, "bce", weight=9.0))({"params": params}, batch(x), new_key())
    z = model.apply({"params": params}, x, method="encode")
    pixels = np.asarray(model.apply({"params": params}, z, method="decode"), np.float64)
    target = np.asarray(x, np.float64)
    cross = -(target * np.log(pixels) + (1 - target) * np.log(1 - pixels)).sum((1, 2, 3))
    np.testing.assert_allclose(terms["loss"], cross, rtol=1e-5)
    np.testing.assert_allclose(terms["reconstruction"], cross, rtol=1e-5)
    assert terms.keys() == {"loss", "bce", "mse", "rmse", "reconstruction", "code"}


def test_decoder_input_is_the_nearest_grid_point():
    model, params, x = small()
    z = model.apply({"params": params}, 20 * x, method="encode")
    moved, off = (model.apply({"params": params}, z + shift, method="decode") for shift in (0.1, 0.9))
    np.testing.assert_array_equal(moved, model.apply({"params": params}, z, method="decode"))
    assert np.any(off != moved)


@pytest.mark.parametrize("levels", [(5, 2), (1 << 16, 1 << 15)])
def test_fewer_than_three_levels_and_more_codes_than_int32_raise(levels):
    with pytest.raises(ValueError, match=rf"levels=\[{levels[0]}, {levels[1]}\]: each must be at least 3"):
        fsq.bound(jnp.zeros((1, 2)), levels)


def test_untrained_decoder_outputs_the_mean_pixel_for_codes_of_zero():
    """Otherwise all codes of dark images first move in the same direction."""
    digits = data.load("digits")
    built = experiment.build(experiment.Config(), digits.info)
    (z, _), variables = built.model.init_with_output(new_key(), jnp.zeros((1, *digits.shape)))
    pixels = built.model.apply(variables, jnp.zeros_like(z), method="decode")
    np.testing.assert_allclose(pixels, digits.train.x.mean() / 255, atol=1e-3)  # means of 0 are clipped to 1e-3


def test_experiment_is_in_nats_per_image():
    built = experiment.build(experiment.Config(filters=(2,), levels=LEVELS), data.Info((4, 4, 1), 100))
    x = jax.random.uniform(new_key(), (5, 4, 4, 1))
    variables = built.model.init(new_key(), x)
    terms, _ = built.evaluate(variables, batch(x, training=False), new_key())
    np.testing.assert_allclose(terms["loss"], 16 * terms["bce"], rtol=1e-6)
    assert built.model.levels == LEVELS


@pytest.mark.slow
def test_training_reduces_the_error_on_digits_and_uses_many_codes():
    digits = data.load("digits")
    built = experiment.build(experiment.Config(filters=(4, 8), levels=(5, 5, 5), lr=3e-3), digits.info)
    params = jax.jit(built.model.init)(new_key(), jnp.zeros((1, *digits.shape)))["params"]
    state = State(jnp.int32(0), params, built.train.init(params), {})
    x = digits.train.x[: 10 * 64].astype(np.float32).reshape(10, 64, *digits.shape) / 255
    first = batch(x[0])

    @jax.jit
    def train(state, x):
        def body(i, state):
            return built.train.step(state, first.replace(x=x[i % 10]), jax.random.fold_in(new_key(), i))[0]

        return jax.lax.fori_loop(0, 200, body, state)

    state = train(state, jnp.asarray(x))
    model = trained(built, state.params, {}, digits.shape)
    few = digits._replace(test=data.Split(digits.test.x[:200], digits.test.y[:200]))
    pixels = few.test.x.astype(np.float32) / 255
    error = np.mean((np.asarray(model.reconstruct(few.test.x)) - pixels) ** 2)
    assert error < 0.4 * np.mean((x.mean((0, 1)) - pixels) ** 2)
    found = codebook.usage(model, few)
    codes = np.asarray(model.encode(few.test.x)).reshape(-1, 3)
    _, counts = np.unique(codes, axis=0, return_counts=True)
    shares = counts / len(codes)
    np.testing.assert_allclose(found["perplexity"], np.prod(shares**-shares), rtol=1e-5)
    assert found["usage"] == len(counts) / 125
    assert found["perplexity"] > 6
