import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit

from conftest import batch, equal, new_key
from experiments import simple
from experiments import tied as tied_experiment
from jaxae import data, nets
from jaxae.step import descend
from jaxae.types import State
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


@pytest.mark.parametrize("objective", ["bce", "mse"])
def test_loss_against_numpy(objective):
    model, params = single()
    z, logits = forward(params)
    weight = np.array([1, 1, 0, 1, 1], bool)
    value, (extra, metrics) = autoencoder.loss(model, objective, weight=3.0)(params, {}, batch(X, weight), new_key())
    squared = (expit(logits) - X) ** 2
    expected = {
        "mse": squared[weight].mean(),
        "rmse": np.sqrt(squared.mean((1, 2)))[weight].mean(),
        "bce": cross_entropy(logits, X)[weight].mean(),
        "reconstruction": cross_entropy(logits, X).sum((1, 2))[weight].mean(),
        "code": np.abs(z[weight]).mean(),
    }
    expected["loss"] = 3 * expected[objective]
    assert set(metrics) == set(expected)
    for name, exact in expected.items():
        np.testing.assert_allclose(metrics[name], exact, rtol=1e-5, err_msg=name)
    assert value == metrics["loss"]
    assert extra == {}


def test_padding_does_not_count():
    model, params = single()
    garbage = X.copy()
    garbage[3:] = 1e3
    value = jax.jit(jax.value_and_grad(lambda p, x: autoencoder.loss(model, "mse")(p, {}, x, new_key())[0]))
    padded, alone = value(params, batch(garbage, [1, 1, 1, 0, 0])), value(params, batch(X[:3]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), padded, alone)


def test_another_output_has_no_cross_entropy_and_is_cut_to_pixels():
    model, params = single(output=jnp.tanh)
    z, before = forward(params)
    value, (_, metrics) = autoencoder.loss(model, "mse")(params, {}, batch(X), new_key())
    np.testing.assert_allclose(value, ((np.tanh(before) - X) ** 2).mean(), rtol=1e-5)
    assert set(metrics) == {"loss", "mse", "rmse", "code"}
    decoded = model.apply({"params": params}, jnp.asarray(z, jnp.float32), method="decode")
    assert before.min() < 0
    np.testing.assert_allclose(decoded, np.tanh(before).clip(0, 1), rtol=1e-4, atol=1e-6)


class Dropping(nn.Module):
    """An encoder that drops a share of what it is given."""

    @nn.compact
    def __call__(self, x, keys=None):
        return nets.Regularization(False, 0.3)(x.reshape(len(x), -1), keys)


class Fixed(nn.Module):
    """A decoder that only reshapes."""

    @nn.compact
    def __call__(self, z, keys=None):
        return z.reshape(-1, 2, 3)


def test_dropout_acts_in_training_alone():
    model = autoencoder.Autoencoder(encoder=Dropping(), decoder=Fixed(), output=nets.linear)
    calm = autoencoder.loss(model, "mse")({}, {}, batch(X), new_key())[0]
    assert calm == 0
    one, same, other = (
        autoencoder.loss(model, "mse", train=True)({}, {}, batch(X), key)[0]
        for key in (new_key(), new_key(), jax.random.key(1))
    )
    assert one == same > 0
    assert one != other
    number = batch(X)._replace(number=jnp.arange(5) + 5)
    assert autoencoder.loss(model, "mse", train=True)({}, {}, number, new_key())[0] != one


def test_running_averages_move_in_training_alone():
    model = autoencoder.Autoencoder(
        encoder=nets.Conv((2,), batch_norm=True), decoder=nets.Deconv((4, 4, 1), (1, 2), batch_norm=True)
    )
    x = jax.random.uniform(new_key(), (3, 4, 4, 1))
    variables = jax.jit(model.init)(new_key(), x)
    extra = {"batch_stats": variables["batch_stats"]}
    losses = [autoencoder.loss(model, "mse", train=train) for train in (False, True)]
    still, moved = (jax.jit(loss)(variables["params"], extra, batch(x), new_key())[1][0] for loss in losses)
    assert equal(still, extra)
    for name in ("encoder", "decoder"):
        before, after = (tree["batch_stats"][name]["Regularization_0"]["BatchNorm_0"] for tree in (extra, moved))
        assert np.all(before["mean"] != after["mean"])
        assert np.all(before["var"] != after["var"])


def test_three_models_share_their_weights():
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


def test_sparse_penalty_and_its_gradient():
    """w sum |z|, z = x W + b: its slope in W is w times the mean of x sign(z)."""
    model, params = single(encoder=nets.MLP((), (4,), axes=2))
    flat = X.reshape(5, 6).astype(np.float64)
    w, b = dense(params, "encoder")
    z = flat @ w + b
    assert (z > 0).any()
    assert (z < 0).any()
    np.testing.assert_allclose(sparse.l1(0.3)(jnp.asarray(z, jnp.float32)), 0.3 * np.abs(z).sum(1), rtol=1e-5)

    def loss(params, penalty):
        value, (_, metrics) = autoencoder.loss(model, "bce", penalty=penalty)(params, {}, batch(X), new_key())
        return value, metrics

    slope, metrics = jax.grad(loss, has_aux=True)(params, sparse.l1(0.3))
    plain, without = jax.grad(loss, has_aux=True)(params, None)
    np.testing.assert_allclose(metrics["penalty"], 0.3 * np.abs(z).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], metrics["bce"] + metrics["penalty"], rtol=1e-6)
    assert metrics["bce"] == without["bce"] == without["loss"]
    difference = jax.tree.map(lambda a, b: a - b, slope, plain)
    np.testing.assert_allclose(
        difference["encoder"]["Dense_0"]["kernel"], 0.3 * flat.T @ np.sign(z) / 5, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(difference["encoder"]["Dense_0"]["bias"], 0.3 * np.sign(z).mean(0), rtol=1e-4, atol=1e-6)
    assert not np.any(difference["decoder"]["Dense_0"]["kernel"])


def test_noise_on_images():
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


def test_noise_belongs_to_the_number_of_the_example():
    whole = batch(X)
    part = whole._replace(x=whole.x[3:], y=whole.y[3:], number=whole.number[3:], weight=whole.weight[3:])
    corrupt = denoising.gaussian(0.5)
    assert equal(corrupt(new_key(), part), corrupt(new_key(), whole)[3:])
    again = corrupt(new_key(), part._replace(number=jnp.array([0, 1])))
    assert np.any(again != corrupt(new_key(), part))


def test_denoising_is_judged_by_the_clean_image():
    model, params = single()
    deaf = {**params, "decoder": jax.tree.map(jnp.zeros_like, params["decoder"])}
    corrupt = denoising.gaussian(0.5)
    loss = autoencoder.loss(model, "mse", corrupt=corrupt)
    for key in (new_key(), jax.random.key(1)):
        np.testing.assert_allclose(loss(deaf, {}, batch(X), key)[0], ((0.5 - X) ** 2).mean(), rtol=1e-6)
    value, (_, metrics) = loss(params, {}, batch(X), new_key())
    noisy = np.asarray(corrupt(jax.random.split(new_key())[0], batch(X)))
    z, logits = forward(params, noisy)
    np.testing.assert_allclose(value, ((expit(logits) - X) ** 2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["bce"], cross_entropy(logits, X).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["code"], np.abs(z).mean(), rtol=1e-5)
    assert abs(value - autoencoder.loss(model, "mse")(params, {}, batch(X), new_key())[0]) > 1e-3


def test_tied_weights():
    """Against an autoencoder with the transpose as its own matrix: the slope is the sum of both uses'."""
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

    def slope(model, params):
        return jax.grad(lambda p: autoencoder.loss(model, "bce")(p, {}, batch(X), new_key())[0])(params)

    ours, theirs = slope(model, params), slope(loose, copy)
    up, down = (np.asarray(theirs[name]["Dense_0"]["kernel"]) for name in ("encoder", "decoder"))
    np.testing.assert_allclose(ours["kernel"], up + down.T, rtol=1e-4, atol=1e-6)
    assert np.abs(up).max() > 1e-3 < np.abs(down).max()
    for name in ("encoder", "decoder"):
        np.testing.assert_allclose(ours[f"{name}_bias"][0], theirs[name]["Dense_0"]["bias"], rtol=1e-4, atol=1e-6)


def test_tied_weights_are_one_matrix_fewer():
    info = data.Info((28, 28, 1), 60_000)

    def count(experiment):
        model = experiment.build(experiment.Config(), info).model
        return sum(p.size for p in jax.tree.leaves(jax.eval_shape(model.init, new_key(), jnp.zeros((1, *info.shape)))))

    assert count(simple) - count(tied_experiment) == 784 * 32


@pytest.mark.parametrize("latent", [1, 2, 4])
def test_linear_autoencoder_reaches_principal_components_from_above(latent):
    """The best of all linear codes leaves the smallest variances out (Baldi & Hornik 1989)."""
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
