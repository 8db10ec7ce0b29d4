from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit

from conftest import batch, equal, evaluated, new_key
from jaxae import data, nets
from jaxae.core.batch import AXIS, Batch, Layout
from jaxae.core.reduction import gradient
from jaxae.core.step import descend
from jaxae.core.types import State
from jaxae.experiments import denoising as denoising_experiment
from jaxae.experiments import simple
from jaxae.experiments import sparse as sparse_experiment
from jaxae.experiments import tied as tied_experiment
from jaxae.variants import autoencoder, denoising, sparse, tied

X = np.random.default_rng(0).uniform(size=(5, 2, 3)).astype(np.float32)
IMAGES = jnp.asarray(X)


def single(**changes):
    """[2, 3] -> 4 -> [2, 3], tanh code, with biases."""
    model = autoencoder.Autoencoder(
        **{
            "encoder": nets.MLP((), (4,), axes=2, final=jnp.tanh),
            "decoder": nets.MLP((), (2, 3)),
            **changes,
        }
    )
    return model, normal(model)


def normal(model):
    """Parameters, biases too, from N(0, 1)."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, new_key(), IMAGES)["params"]
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), shapes)


def dense(params, name):
    layer = params[name]["Dense_0"]
    return np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"], np.float64)


def forward(params, x=X):
    """Codes and logits of `single`."""
    (w, b), (v, c) = dense(params, "encoder"), dense(params, "decoder")
    z = np.tanh(x.reshape(len(x), -1).astype(np.float64) @ w + b)
    return z, (z @ v + c).reshape(x.shape)


def cross_entropy(logits, x):
    p = expit(logits)
    return -(x * np.log(p) + (1 - x) * np.log(1 - p))


def slope(loss, params, given):
    """Gradient of the mean loss, and the means of its terms."""
    grads, metrics, _ = jax.jit(partial(gradient, lambda p, b: loss({"params": p}, b, new_key())))(params, given)
    return grads, metrics


@pytest.mark.parametrize("objective", ["bce", "mse"])
def test_loss_against_numpy(objective):
    model, params = single()
    z, logits = forward(params)
    terms, updates = evaluated(autoencoder.loss(model, objective, weight=3.0), {"params": params}, batch(X))
    squared = (expit(logits) - X) ** 2
    expected = {
        "mse": squared.mean((1, 2)),
        "rmse": np.sqrt(squared.mean((1, 2))),
        "bce": cross_entropy(logits, X).mean((1, 2)),
        "reconstruction": cross_entropy(logits, X).sum((1, 2)),
        "code": np.abs(z).mean(1),
    }
    expected["loss"] = 3 * expected[objective]
    assert set(terms) == set(expected)
    for name, exact in expected.items():
        np.testing.assert_allclose(terms[name], exact, rtol=1e-5, err_msg=name)
    assert updates == {}


def test_padding_changes_neither_gradient_nor_metrics():
    model, params = single()
    garbage = X.copy()
    garbage[3:] = 1e3
    loss = autoencoder.loss(model, "mse", weight=3.0)
    padded, alone = slope(loss, params, batch(garbage, [1, 1, 1, 0, 0])), slope(loss, params, batch(X[:3]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), padded, alone)


def test_output_other_than_logistic_has_no_cross_entropy():
    """The objective bce is then the squared error."""
    model, params = single(output=jnp.tanh)
    z, before = forward(params)
    for objective in ("mse", "bce"):
        terms, _ = evaluated(autoencoder.loss(model, objective, weight=3.0), {"params": params}, batch(X))
        np.testing.assert_allclose(terms["loss"], 3 * ((np.tanh(before) - X) ** 2).mean((1, 2)), rtol=1e-5)
        assert set(terms) == {"loss", "mse", "rmse", "code"}
    decoded = model.apply({"params": params}, jnp.asarray(z, jnp.float32), method="decode")
    np.testing.assert_allclose(decoded, np.tanh(before), rtol=1e-4, atol=1e-6)


class Dropping(nn.Module):
    """An encoder with dropout on its input."""

    @nn.compact
    def __call__(self, x, keys=None, axis=None):
        return nets.Regularization(False, 0.3)(x.reshape(len(x), -1), keys, axis)


class Fixed(nn.Module):
    """A decoder without parameters, which reshapes the code."""

    @nn.compact
    def __call__(self, z, keys=None, axis=None):
        return z.reshape(-1, 2, 3)


def test_dropout_acts_in_training_only():
    model = autoencoder.Autoencoder(encoder=Dropping(), decoder=Fixed(), output=nets.linear)
    loss = autoencoder.loss(model, "mse")

    def error(key, **changes):
        return evaluated(loss, {}, batch(X).replace(**changes), key)[0]["loss"]

    assert not error(new_key(), training=False).any()
    one, same, other = error(new_key()), error(new_key()), error(jax.random.key(1))
    assert equal(one, same)
    assert np.all(one > 0)
    assert np.any(one != other)
    assert np.any(error(new_key(), index=jnp.arange(5) + 5) != one)


def convolutional():
    """Model with batch norm in encoder and decoder, its variables, and four images."""
    model = autoencoder.Autoencoder(
        encoder=nets.Conv((2,), batch_norm=True), decoder=nets.Deconv((4, 4, 1), (1, 2), batch_norm=True)
    )
    x = jax.random.uniform(new_key(), (4, 4, 4, 1))
    return model, jax.jit(model.init)(new_key(), x), x


def test_running_averages_move_in_training_only():
    model, variables, x = convolutional()
    loss = jax.jit(autoencoder.loss(model, "mse"))
    assert loss(variables, batch(x, training=False), new_key())[1] == {}
    updates = loss(variables, batch(x), new_key())[1]
    assert set(updates) == {"batch_stats"}
    for name in ("encoder", "decoder"):
        before, after = (tree["batch_stats"][name]["Regularization_0"]["BatchNorm_0"] for tree in (variables, updates))
        assert np.all(before["mean"] != after["mean"])
        assert np.all(before["var"] != after["var"])


def test_batch_statistics_are_those_of_the_batch_over_all_devices():
    model, variables, x = convolutional()
    loss = jax.jit(autoencoder.loss(model, "mse", weight=3.0))
    terms, updates = loss(variables, batch(x), new_key())

    def share(x, index):
        part = Batch(x, index, jnp.ones(2), jnp.int32(0), layout=Layout(AXIS))
        return loss(variables, part, new_key())

    halves = x.reshape(2, 2, *x.shape[1:]), jnp.arange(4).reshape(2, 2)
    found, moved = jax.jit(jax.vmap(share, axis_name=AXIS))(*halves)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), updates)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, {name: term.ravel() for name, term in found.items()}, terms)
    jax.tree.map(close, moved, both)


def test_encode_decode_and_call_share_their_weights():
    model, params = single()
    variables = {"params": params}
    z, before = model.apply(variables, IMAGES)
    codes = model.apply(variables, IMAGES, method="encode")
    assert equal(codes, z)
    np.testing.assert_allclose(codes, forward(params)[0], rtol=1e-5, atol=1e-6)
    pixels = model.apply(variables, codes, method="decode")
    assert equal(pixels, nn.sigmoid(before))
    assert equal(model.encoder.apply({"params": params["encoder"]}, IMAGES), codes)
    assert equal(nn.sigmoid(model.decoder.apply({"params": params["decoder"]}, codes)), pixels)


def test_sparse_penalty_and_its_gradient_against_closed_forms():
    """w sum |z|, z = x W + b: the gradient in W is w times the mean of x sign(z), whatever the weight of the error."""
    model, params = single(encoder=nets.MLP((), (4,), axes=2))
    flat = X.reshape(5, 6).astype(np.float64)
    w, b = dense(params, "encoder")
    z = flat @ w + b
    assert (z > 0).any()
    assert (z < 0).any()
    np.testing.assert_allclose(sparse.l1(0.3)(jnp.asarray(z, jnp.float32)), 0.3 * np.abs(z).sum(1), rtol=1e-5)

    def loss(penalty):
        return autoencoder.loss(model, "bce", penalty=penalty, weight=2.5)

    terms, _ = loss(sparse.l1(0.3))({"params": params}, batch(X), new_key())
    np.testing.assert_allclose(terms["penalty"], 0.3 * np.abs(z).sum(1), rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], 2.5 * terms["bce"] + terms["penalty"], rtol=1e-6)
    (with_it, metrics), (plain, without) = (slope(loss(p), params, batch(X)) for p in (sparse.l1(0.3), None))
    assert metrics["bce"] == without["bce"]
    assert "penalty" not in without
    np.testing.assert_allclose(without["loss"], 2.5 * without["bce"], rtol=1e-6)
    difference = jax.tree.map(lambda a, b: a - b, with_it, plain)
    np.testing.assert_allclose(
        difference["encoder"]["Dense_0"]["kernel"], 0.3 * flat.T @ np.sign(z) / 5, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(difference["encoder"]["Dense_0"]["bias"], 0.3 * np.sign(z).mean(0), rtol=1e-4, atol=1e-6)
    assert not np.any(difference["decoder"]["Dense_0"]["kernel"])


def test_sparse_experiment_weights_the_penalty_by_its_field():
    built = sparse_experiment.build(sparse_experiment.Config(latent=4, sparsity=0.3), data.Info((2, 3), 100))
    params = normal(built.model)
    terms, _ = built.evaluate({"params": params}, batch(X, training=False), new_key())
    z = built.model.apply({"params": params}, IMAGES, method="encode")
    assert np.all(np.abs(z).sum(1) > 0)
    np.testing.assert_allclose(terms["loss"] - terms["bce"], 0.3 * np.abs(z).sum(1), rtol=1e-5)


def test_gaussian_noise_has_its_moments_and_is_clipped_to_0_and_1():
    grey = batch(np.full((50, 20, 20), 0.5, np.float32))
    noise = np.asarray(denoising.gaussian(0.1)(new_key(), grey)) - 0.5  # clipped beyond five standard deviations
    n = noise.size
    assert abs(noise.mean()) < 4 * 0.1 / np.sqrt(n)
    assert abs(noise.std() - 0.1) < 4 * 0.1 / np.sqrt(2 * n)
    strong = np.asarray(denoising.gaussian(0.5)(new_key(), grey))
    np.testing.assert_allclose(strong, np.clip(0.5 + 5 * noise, 0, 1), atol=1e-6)
    assert strong.min() == 0
    assert strong.max() == 1
    assert np.all(noise[0] != noise[1])
    assert not equal(denoising.gaussian(0.1)(jax.random.key(1), grey), denoising.gaussian(0.1)(new_key(), grey))


def test_noise_is_a_function_of_the_index_of_the_example():
    whole = batch(X)
    part = whole.replace(x=whole.x[3:], y=whole.y[3:], index=whole.index[3:], weight=whole.weight[3:])
    corrupt = denoising.gaussian(0.5)
    assert equal(corrupt(new_key(), part), corrupt(new_key(), whole)[3:])
    again = corrupt(new_key(), part.replace(index=jnp.array([0, 1])))
    assert np.any(again != corrupt(new_key(), part))


def test_target_of_denoising_is_the_clean_image():
    model, params = single()
    constant = {**params, "decoder": jax.tree.map(jnp.zeros_like, params["decoder"])}
    corrupt = denoising.gaussian(0.5)
    loss = autoencoder.loss(model, "mse", corrupt=corrupt)
    for key in (new_key(), jax.random.key(1)):
        error = loss({"params": constant}, batch(X), key)[0]["loss"]
        np.testing.assert_allclose(error, ((0.5 - X) ** 2).mean((1, 2)), rtol=1e-6)
    terms, _ = loss({"params": params}, batch(X), new_key())
    noisy = np.asarray(corrupt(jax.random.split(new_key())[0], batch(X)))
    z, logits = forward(params, noisy)
    np.testing.assert_allclose(terms["loss"], ((expit(logits) - X) ** 2).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(terms["bce"], cross_entropy(logits, X).mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(terms["code"], np.abs(z).mean(1), rtol=1e-5)
    clean = autoencoder.loss(model, "mse")({"params": params}, batch(X), new_key())[0]["loss"]
    assert np.all(abs(terms["loss"] - clean) > 1e-3)


def test_denoised_colour_images_start_at_the_mean_colour():
    """Grey ones at 0.13, the mean of MNIST."""
    mean = np.full((4, 4, 3), [0.2, 0.5, 0.9])
    for info, expected in ((data.Info((4, 4, 3), 9, lambda: mean), mean[0, 0]), (data.Info((4, 4, 1), 9), [0.13])):
        built = denoising_experiment.build(denoising_experiment.Config(filters=(2, 2)), info)
        params = jax.jit(built.model.init)(new_key(), jnp.zeros((1, *info.shape)))
        without_kernels = jax.tree.map(lambda leaf: leaf if leaf.shape[:3] == (1, 1, 1) else 0 * leaf, params)
        pixels = built.model.apply(without_kernels, jnp.zeros((1, 2, 2, 2)), method="decode")
        np.testing.assert_allclose(pixels[0, 0, 0], expected, atol=1e-3)


def test_denoising_experiment_adds_the_noise_of_its_field():
    built = denoising_experiment.build(denoising_experiment.Config(filters=(2, 2), noise=0.2), data.Info((4, 4, 1), 9))
    images = batch(np.random.default_rng(2).uniform(size=(5, 4, 4, 1)).astype(np.float32))
    variables = built.model.init(new_key(), images.x)
    assert equal(built.corrupt(new_key(), images), denoising.gaussian(0.2)(new_key(), images))
    exact = autoencoder.loss(built.model, "mse", corrupt=denoising.gaussian(0.2))
    assert equal(*(loss(variables, images, new_key()) for loss in (built.evaluate, exact)))


def test_dense_decoder_mirrors_the_encoder():
    encoder, decoder = autoencoder.dense((2, 3), (7, 5), 4, final=jnp.tanh, activation=nn.elu)
    assert (encoder.hidden, encoder.outputs, encoder.axes, encoder.final) == ((7, 5), (4,), 2, jnp.tanh)
    assert (decoder.hidden, decoder.outputs, decoder.final) == ((5, 7), (2, 3), nets.linear)
    assert encoder.activation is decoder.activation is nn.elu


@pytest.mark.parametrize(("pools", "places", "kernels"), [(None, 2, [3, 5, 3, 3]), (2, 4, [3, 5, 3])])
def test_pooled_decoder_mirrors_the_encoder(pools, places, kernels):
    encoder, decoder = autoencoder.pooled((16, 16, 1), (2, 3, 4), (3, 5, 3), pools=pools, bias=-1.5)
    model, x = autoencoder.Autoencoder(encoder, decoder), jnp.zeros((1, 16, 16, 1))
    (z, logits), variables = jax.eval_shape(model.init_with_output, new_key(), x)
    assert z.shape == (1, places, places, 4)
    assert logits.shape == x.shape
    assert [layer["kernel"].shape[0] for layer in variables["params"]["decoder"].values()] == kernels
    assert decoder.bias == -1.5


def test_tied_weights_have_the_sum_of_both_gradients():
    """Against an autoencoder with the transpose as a separate matrix: the gradient is the sum over both uses."""
    model = tied.Tied((2, 3), 4, activation=jnp.tanh)
    params = normal(model)
    loose, _ = single()
    copy = {
        "encoder": {"Dense_0": {"kernel": params["kernel"], "bias": params["encoder_bias"][0]}},
        "decoder": {"Dense_0": {"kernel": params["kernel"].T, "bias": params["decoder_bias"][0]}},
    }
    z, logits = model.apply({"params": params}, IMAGES)
    exact_z, exact_logits = forward(copy)
    np.testing.assert_allclose(z, exact_z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, exact_logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.apply({"params": params}, z, method="decode"), expit(exact_logits), rtol=1e-5)

    ours = slope(autoencoder.loss(model, "bce"), params, batch(X))[0]
    theirs = slope(autoencoder.loss(loose, "bce"), copy, batch(X))[0]
    up, down = (np.asarray(theirs[name]["Dense_0"]["kernel"]) for name in ("encoder", "decoder"))
    np.testing.assert_allclose(ours["kernel"], up + down.T, rtol=1e-4, atol=1e-6)
    assert np.abs(up).max() > 1e-3 < np.abs(down).max()
    for name in ("encoder", "decoder"):
        np.testing.assert_allclose(ours[f"{name}_bias"][0], theirs[name]["Dense_0"]["bias"], rtol=1e-4, atol=1e-6)


def test_tied_weights_save_one_matrix():
    info = data.Info((28, 28, 1), 60_000)

    def count(experiment):
        model = experiment.build(experiment.Config(), info).model
        return sum(p.size for p in jax.tree.leaves(jax.eval_shape(model.init, new_key(), jnp.zeros((1, *info.shape)))))

    assert count(simple) - count(tied_experiment) == 784 * 32


@pytest.mark.parametrize("latent", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4))])
def test_error_of_a_linear_autoencoder_converges_from_above_to_that_of_pca(latent):
    """The minimum over linear codes is the sum of the smallest eigenvalues of the covariance (Baldi & Hornik 1989)."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = (0.5 + rng.normal(size=(40, 6)) * [1.0, 0.8, 0.6, 0.5, 0.4, 0.3] @ axes).astype(np.float32)
    best = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64), ddof=0))[: 6 - latent].sum() / 6
    model = autoencoder.Autoencoder(encoder=nets.MLP((), (latent,)), decoder=nets.MLP((), (6,)), output=nets.linear)
    params = model.init(new_key(), jnp.asarray(x))["params"]
    transition = descend(autoencoder.loss(model, "mse"), optax.adam(optax.cosine_decay_schedule(0.02, 3000)))
    state = State(jnp.int32(0), params, transition.init(params), {})
    step = lambda state, _: transition.step(state, batch(x), new_key())  # noqa: E731
    _, metrics = jax.jit(lambda state: jax.lax.scan(step, state, length=3000))(state)
    losses = np.asarray(metrics["loss"])
    assert losses.min() > best * (1 - 1e-5)
    np.testing.assert_allclose(losses[-1], best, rtol=1e-3)
