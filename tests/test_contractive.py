import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from conftest import batch, new_key
from experiments import contractive as experiment
from jaxae import data, nets
from jaxae.variants import autoencoder, contractive, tied


def encoders():
    """Dense nets, also of mixed precision, a convolution, and a code wider than its image."""
    return {
        "dense": nets.MLP((5,), (3,), axes=3, activation=jnp.tanh),
        "wide": nets.MLP((), (20,), axes=3, final=nn.sigmoid),
        "mixed": nets.MLP((5,), (3,), axes=3, activation=jnp.tanh, precision="mixed"),
        "convolution": nets.Conv((2, 3), (3,), (2,), activation=jnp.tanh),
    }


def prepared(name):
    """What encodes, and four images [4, 4, 1]."""
    net = encoders()[name]
    x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    params = net.init(new_key(), x)
    return lambda x: net.apply(params, x), x


def exact(encode, x):
    """By the Jacobian of one image at a time."""
    jacobian = jax.jit(jax.jacobian(lambda one: encode(one[None])[0]))
    return np.array([np.sum(np.asarray(jacobian(one), np.float64) ** 2) for one in x])


@pytest.mark.parametrize("name", encoders())
def test_norm_against_the_jacobian(name):
    encode, x = prepared(name)
    expected = exact(encode, x)
    assert np.ptp(expected) > 1e-3
    norm = jax.jit(lambda x: contractive.frobenius(encode, x))  # bfloat16 is not multiplied outside of programs
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5)


def test_closed_form_against_the_jacobian():
    rng = np.random.default_rng(0)
    w, b = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((6, 4), (1, 4)))
    encode = lambda x: nn.sigmoid(x @ w + b)  # noqa: E731
    x = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
    expected = exact(encode, x)
    assert expected.max() > 2 * expected.min()
    np.testing.assert_allclose(contractive.frobenius_of_sigmoids(encode(x), w), expected, rtol=1e-5)


def model():
    """[2, 3] -> 4 sigmoids -> [2, 3], tied, its parameters from N(0, 1), and five examples."""
    net = tied.Tied((2, 3), 4, nn.sigmoid)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.uniform(size=(5, 2, 3)), jnp.float32)
    shapes = jax.eval_shape(net.init, new_key(), x)["params"]
    return net, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), shapes), x


@pytest.mark.parametrize("norm", [contractive.norm, contractive.norm_of_tied])
def test_loss_is_reconstruction_and_weighted_norm(norm):
    """Padding does not count, neither in the one nor in the other."""
    net, params, x = model()
    plain = autoencoder.loss(net, "bce", weight=6.0)
    real = batch(x, [1, 1, 0, 1, 1])
    value, (_, metrics) = contractive.loss(plain, norm(net), 0.3)(params, {}, real, new_key())
    without = plain(params, {}, real, new_key())[1][1]
    expected = exact(lambda x: net.apply({"params": params}, x, method="encode"), x)[[0, 1, 3, 4]].mean()
    np.testing.assert_allclose(metrics["jacobian"], expected, rtol=1e-5)
    np.testing.assert_allclose(value, without["reconstruction"] + 0.3 * expected, rtol=1e-5)
    assert metrics["loss"] == value
    assert {name: metrics[name] for name in without if name != "loss"} == {
        k: without[k] for k in without if k != "loss"
    }


@pytest.mark.parametrize("norm", [contractive.norm, contractive.norm_of_tied])
def test_gradient_of_the_penalty_against_finite_differences(norm):
    net, params, x = model()

    @jax.jit
    def penalty(params):
        return norm(net)({"params": params}, x).mean()

    check_grads(penalty, (params,), order=1, modes=["rev"], eps=1e-2)
    slope = jax.grad(penalty)(params)
    assert np.abs(slope["kernel"]).max() > 1e-2 < np.abs(slope["encoder_bias"]).max()
    assert not np.any(slope["decoder_bias"])


@pytest.mark.parametrize(
    "net", [nets.Conv((2, 3), strides=(2,), outputs=(3,), activation=jnp.tanh), encoders()["mixed"]]
)
def test_gradient_of_the_penalty_of_convolutions(net):
    """Which takes the derivatives of their own derivatives."""
    net = net.clone(precision="float32")
    x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    params = net.init(new_key(), x)

    @jax.jit
    def penalty(params):
        return contractive.frobenius(lambda x: net.apply(params, x), x).mean()

    check_grads(penalty, (params,), order=1, modes=["rev"], eps=1e-2, rtol=1e-2, atol=1e-2)


def test_gradient_in_mixed_precision():
    """Along a direction, against the difference of the values in full precision."""
    net = encoders()["mixed"]
    x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    params = net.init(new_key(), x)

    def along(step, net):
        moved = jax.tree.map(lambda p: p + step, params)
        return contractive.frobenius(lambda x: net.apply(moved, x), x).mean()

    full = net.clone(precision="float32")
    slope = jax.jit(jax.grad(lambda step: along(step, net)))(0.0)
    expected = (along(1e-2, full) - along(-1e-2, full)) / 2e-2
    assert abs(expected) > 1e-2
    np.testing.assert_allclose(slope, expected, rtol=0.03)


def test_both_norms_train_alike():
    net, params, x = model()

    def slope(norm):
        loss = contractive.loss(autoencoder.loss(net, "mse"), norm(net), 0.1)
        return jax.grad(lambda p: loss(p, {}, batch(x), new_key())[0])(params)

    general, closed = slope(contractive.norm), slope(contractive.norm_of_tied)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), general, closed)


def test_closed_form_is_refused_for_another_code():
    with pytest.raises(ValueError, match="sigmoid"):
        contractive.norm_of_tied(tied.Tied((2, 3), 4, nn.relu))


def test_experiment_is_in_nats_per_image():
    """As the source has it: cross-entropy summed over pixels, plus the weight times the norm."""
    digits = data.load("digits").test.x[:8] / np.float32(255)
    built = experiment.build(experiment.Config(latent=12, contraction=0.5), data.Info((28, 28, 1), 100))
    params = built.model.init(new_key(), jnp.asarray(digits))["params"]
    value, (_, metrics) = built.evaluate(params, {}, batch(digits), jax.random.key(1))
    np.testing.assert_allclose(value, 784 * metrics["bce"] + 0.5 * metrics["jacobian"], rtol=1e-5)
    assert metrics["jacobian"] > 0.1
