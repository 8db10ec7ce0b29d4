"""The first stage of latent diffusion: losses, adaptive weight, discriminator and perceptual distance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxae
from conftest import apply, batch, equal, evaluated, new_key
from jaxae import nets
from jaxae.core.batch import Layout
from jaxae.core.divergences import kl_normal
from jaxae.core.reduction import gradient
from jaxae.errors import InputError
from jaxae.measure import classifier, perceptual
from jaxae.variants import kl_autoencoder
from test_residual import group_norm, randomized

rng = np.random.default_rng(0)
X = rng.random((4, 8, 8, 3)).astype(np.float32)
NETS = {"filters": (8, 8), "blocks": 1}
FACTOR = 0.3


def cubes(x, y):
    """A stand-in for the perceptual distance."""
    return jnp.mean(jnp.abs(x - y) ** 3, axis=(1, 2, 3))


@pytest.fixture(scope="module")
def model():
    """[8, 8, 3] -> [4, 4, 2] -> [8, 8, 3], with random parameters."""
    net = kl_autoencoder.KLAutoencoder(
        nets.ResNet(channels=4, **NETS), nets.UpResNet((8, 8, 3), **NETS), nets.PatchDiscriminator((4, 6, 8))
    )
    params = randomized(jax.eval_shape(net.init, new_key(), jnp.asarray(X))["params"])
    return net, {"params": jax.tree.map(lambda leaf: 0.3 * leaf, params)}


@pytest.fixture(scope="module")
def parts(model):
    """Posterior, decoded sample and logits of a batch with the key of the tests."""
    net, variables = model

    @jax.jit
    def compute(variables, x, key):
        q = net.apply(variables, x, method="posterior")
        z = q.mean + q.scale * batch(x).noise(key, (4, 4, 2))
        y = net.apply(variables, z, method="outputs")
        return q, z, y, net.apply(variables, y, method="discriminate")

    return jax.tree.map(np.asarray, compute(variables, X, new_key()))


def losses(net, **options):
    return kl_autoencoder.loss(net, 0.7, perceptual=cubes, perceptual_weight=0.4, **options)


@pytest.mark.parametrize("pixels", ["l1", "l2"])
def test_distance_and_kl_term_against_numpy(model, parts, pixels):
    net, variables = model
    q, _, y, _ = parts
    terms, updates = evaluated(losses(net, pixels=pixels), variables, batch(X))
    error = np.asarray(y, np.float64) - X
    expected = {
        "mae": np.abs(error).mean((1, 2, 3)),
        "mse": (error**2).mean((1, 2, 3)),
        "perceptual": (np.abs(error) ** 3).mean((1, 2, 3)),
        "kl": np.asarray(jax.jit(kl_normal)(q)),
    }
    first = expected["mae" if pixels == "l1" else "mse"]
    expected["loss"] = first + 0.4 * expected["perceptual"] + 0.7 * expected["kl"] / 192
    assert set(terms) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], values, rtol=1e-5, err_msg=name)
    assert updates == {}


@pytest.fixture(scope="module")
def adversarial(model):
    """Gradient and metrics of the loss with a discriminator."""
    net, variables = model
    loss = losses(net, adversarial=lambda step: FACTOR + 0.0 * step)
    return jax.jit(lambda params: gradient(lambda p, part: loss({"params": p}, part, new_key()), params, batch(X))[:2])(
        variables["params"]
    )


def test_adaptive_weight_is_the_ratio_of_gradients_in_the_last_kernel(model, parts, adversarial):
    """By differentiation of the mean losses through the decoder, with the 1e-4 of the denominator."""
    net, variables = model
    z = jnp.asarray(parts[1])

    def mean(kernel, which):
        decoder = variables["params"]["decoder"]
        changed = {**variables["params"], "decoder": {**decoder, "output": {**decoder["output"], "kernel": kernel}}}
        y = net.apply({"params": changed}, z, method="outputs")
        if which == "generator":
            return -jnp.mean(net.apply({"params": changed}, y, method="discriminate"))
        return jnp.mean(jnp.abs(X - y)) + 0.4 * jnp.mean(jnp.abs(X - y) ** 3)

    kernel = variables["params"]["decoder"]["output"]["kernel"]
    slope = jax.jit(jax.grad(mean), static_argnums=1)
    of_distance, of_generator = (float(np.linalg.norm(slope(kernel, which))) for which in ("distance", "generator"))
    metrics = jax.tree.map(np.asarray, adversarial[1])
    assert metrics["adaptive"] == pytest.approx(of_distance / (of_generator + 1e-4), rel=1e-3)
    assert metrics["generator"] == pytest.approx(-float(parts[3].mean()), rel=1e-4)
    distance = metrics["mae"] + 0.4 * metrics["perceptual"] + 0.7 * metrics["kl"] / 192
    assert metrics["loss"] == pytest.approx(
        float(distance + FACTOR * metrics["adaptive"] * metrics["generator"]), rel=1e-4
    )


def test_adaptive_weight_is_a_constant_of_the_gradient(model, adversarial):
    net, variables = model
    grads, metrics = adversarial
    plain = losses(net)

    def fixed(params):
        terms = plain({"params": params}, batch(X), new_key())[0]
        q = net.apply({"params": params}, jnp.asarray(X), method="posterior")
        y = net.apply({"params": params}, q.mean + q.scale * batch(X).noise(new_key(), (4, 4, 2)), method="outputs")
        generator = -jnp.mean(net.apply({"params": params}, y, method="discriminate"))
        return jnp.mean(terms["loss"]) + FACTOR * metrics["adaptive"] * generator

    expected = jax.jit(jax.grad(fixed))(variables["params"])
    for group in ("encoder", "decoder"):
        for a, b in zip(*map(jax.tree.leaves, (grads[group], expected[group])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_adaptive_weight_is_bounded_and_needs_the_global_batch(model):
    net, variables = model
    h, kernel = np.ones((4, 8, 8, 8), np.float32), np.ones((3, 3, 8, 3), np.float32)
    slope = np.ones((4, 8, 8, 3), np.float32)
    weight = partial(jax.jit(kl_autoencoder.adaptive_weight), batch(X), h, kernel)
    assert weight(slope, 0 * slope) == 1e4
    assert weight(2 * slope, slope) == pytest.approx(2, rel=1e-4)
    microbatch = batch(X).replace(layout=Layout(partial=True))
    with pytest.raises(ValueError, match=r"Batch.mean needs the global batch"):
        jax.eval_shape(losses(net, adversarial=kl_autoencoder.started(0.0)), variables, microbatch, new_key())


def test_evaluation_has_no_adversarial_loss(model):
    net, variables = model
    examples = batch(X, training=False)
    with_it, without = (
        evaluated(losses(net, adversarial=of), variables, examples)[0] for of in (kl_autoencoder.started(0.0), None)
    )
    assert with_it.keys() == without.keys()
    assert equal(with_it["loss"], without["loss"])


def test_hinge_loss_against_numpy(model, parts):
    """It has no gradient in the decoder; its factor is 0 before the start."""
    net, variables = model
    real = np.asarray(apply(net, variables, X, method="discriminate"))
    fake = np.asarray(parts[3])
    hinge = (np.maximum(0, 1 - real) + np.maximum(0, 1 + fake)).mean((1, 2)) / 2
    loss = kl_autoencoder.discriminator_loss(net, lambda step: 0.5 * kl_autoencoder.started(7.0)(step))

    @jax.jit
    def at(params, step):
        return loss({"params": params}, batch(X).replace(step=step), new_key())[0]

    terms = at(variables["params"], 7)
    np.testing.assert_allclose(terms["loss"], 0.5 * hinge, rtol=1e-4)
    np.testing.assert_allclose(terms["real"], real.mean((1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(terms["fake"], fake.mean((1, 2)), rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(at(variables["params"], 6)["loss"]) == 0)
    slopes = jax.jit(jax.grad(lambda params: jnp.sum(at(params, 9)["loss"])))(variables["params"])
    largest = {group: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(of)) for group, of in slopes.items()}
    assert largest["encoder"] == largest["decoder"] == 0 < largest["discriminator"]


@partial(jax.jit, static_argnums=2)
def convolve(x, kernel, stride=1):
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def test_discriminator_against_convolutions():
    """Stride 2, 2 and 1, norm from the second layer on, slope 0.2; the last layer has one channel."""
    net = nets.PatchDiscriminator((4, 8, 8))
    y = x = rng.normal(size=(2, 16, 12, 3)).astype(np.float32)
    p = jax.tree.map(np.asarray, randomized(jax.eval_shape(net.init, new_key(), x)["params"]))
    for name, stride in (("layer0", 2), ("layer1", 2), ("layer2", 1), ("output", 1)):
        y = np.asarray(convolve(y, p[name]["kernel"], stride) + p[name]["bias"], np.float64)
        if name in ("layer1", "layer2"):
            y = group_norm(y, p[name.replace("layer", "norm")], 1)
        y = (y if name == "output" else np.where(y > 0, y, 0.2 * y)).astype(np.float32)
    found = apply(net, {"params": p}, x)
    assert found.shape == (2, 4, 3)
    np.testing.assert_allclose(found, y[..., 0], rtol=1e-3, atol=1e-3 * np.abs(y).max())


@pytest.fixture(scope="module")
def weights():
    net = classifier.Classifier(5, (4, 6))
    return randomized(jax.eval_shape(net.init, new_key(), jnp.asarray(X))["params"])


def test_perceptual_distance_against_numpy(weights):
    """Two layers, the second after pooling; the distance of equal images is 0, and their size may be another."""
    y = rng.random((4, 8, 8, 3)).astype(np.float32)
    expected = np.zeros(4)
    both = [X, y]
    for name in ("Convolution_0", "Convolution_1"):
        p = jax.tree.map(np.asarray, weights["maps"][name])
        maps = [np.maximum(np.asarray(convolve(x, p["kernel"])) + p["bias"], 0).astype(np.float64) for x in both]
        f, g = (m / np.sqrt((m**2).sum(-1, keepdims=True) + 1e-10) for m in maps)
        expected += ((f - g) ** 2).sum(-1).mean((1, 2))
        pooled = [m.reshape(4, m.shape[1] // 2, 2, m.shape[2] // 2, 2, -1).max((2, 4)) for m in maps]
        both = [m.astype(np.float32) for m in pooled]
    distance = jax.jit(perceptual.distance(weights))
    np.testing.assert_allclose(distance(X, y), expected, rtol=1e-3)
    assert np.all(np.asarray(distance(y, y)) == 0)
    large = jax.ShapeDtypeStruct((4, 16, 8, 3), np.float32)
    assert jax.eval_shape(distance, large, large).shape == (4,)
    slope = jax.jit(jax.grad(lambda y: jnp.sum(distance(y, y))))(np.zeros((1, 8, 8, 3), np.float32))
    assert np.all(np.isfinite(slope))


def test_weights_of_the_perceptual_distance_are_read_at_its_first_use(weights, tmp_path):
    """A trained model encodes without the file; another file is an error before training."""
    file = tmp_path / "weights.npz"
    found = perceptual.read(file)
    with pytest.raises(InputError, match="holds no classifier"):
        jax.eval_shape(found, X, X)
    classifier.save(file, weights)
    of_file, expected = (
        jax.jit(distance)(X, X[::-1]) for distance in (perceptual.read(file), perceptual.distance(weights))
    )
    np.testing.assert_allclose(of_file, expected, rtol=1e-5)
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    fields = {"classifier": str(tmp_path / "other.npz"), "epochs": 1, "batch_size": 4, "progress": False}
    with pytest.raises(InputError, match=r"other.npz holds no classifier; create it with jaxae classifier"):
        jaxae.fit("kl_autoencoder", (255 * X).astype(np.uint8), filters=(4,), attention=(), test=0, **fields)


@pytest.mark.slow
def test_discriminator_keeps_its_parameters_until_it_starts():
    x = rng.integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
    fields = {
        "filters": (4, 8),
        "attention": (),
        "discriminator": (4, 4),
        "batch_size": 8,
        "progress": False,
        "test": 0,
    }
    of = {start: jaxae.fit("kl_autoencoder", x, epochs=1, adversarial_start=start, **fields) for start in (1.0, 0.5)}
    again = jaxae.fit("kl_autoencoder", x, epochs=2, adversarial_start=2.0, **fields)
    early, late = (model.params["discriminator"] for model in (again, of[1.0]))
    assert all(map(equal, *map(jax.tree.leaves, (early, late))))
    moved = of[0.5].params["discriminator"]
    assert not any(map(equal, *map(jax.tree.leaves, (moved["output"], late["output"]))))
    assert of[0.5].decode(of[0.5].encode(x)).min() >= 0
