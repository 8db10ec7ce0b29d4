import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from conftest import batch, equal, new_key
from jaxae import data, nets
from jaxae.core.reduction import gradient
from jaxae.experiments import contractive as experiment
from jaxae.variants import autoencoder, contractive, tied


def encoders():
    """Dense nets (one in mixed precision, one whose code is wider than its image) and a convolution."""
    return {
        "dense": nets.MLP((5,), (3,), axes=3, activation=jnp.tanh),
        "wide": nets.MLP((), (20,), axes=3, final=nn.sigmoid),
        "mixed": nets.MLP((5,), (3,), axes=3, activation=jnp.tanh, precision="mixed"),
        "convolution": nets.Conv((2, 3), (3,), (2,), activation=jnp.tanh),
    }


def prepared(name):
    """An encoder, and four images [4, 4, 1]."""
    net = encoders()[name]
    x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    params = net.init(new_key(), x)
    return lambda x: net.apply(params, x), x


def exact(encode, x):
    """The norm from the Jacobian of one image at a time."""
    jacobian = jax.jit(jax.jacobian(lambda one: encode(one[None])[0]))
    return np.array([np.sum(np.asarray(jacobian(one), np.float64) ** 2) for one in x])


@pytest.mark.parametrize("name", encoders())
def test_norm_against_the_jacobian(name):
    encode, x = prepared(name)
    expected = exact(encode, x)
    assert np.ptp(expected) > 1e-3
    norm = jax.jit(
        lambda x: contractive.frobenius(encode, x)
    )  # bfloat16 products are supported in compiled programs only
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
    """[2, 3] -> 4 sigmoid units -> [2, 3], tied, with parameters from N(0, 1), and five examples."""
    net = tied.Tied((2, 3), 4, nn.sigmoid)
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.uniform(size=(5, 2, 3)), jnp.float32)
    shapes = jax.eval_shape(net.init, new_key(), x)["params"]
    return net, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32), shapes), x


@pytest.mark.parametrize("norm", [contractive.norm, contractive.norm_of_tied])
def test_loss_is_reconstruction_and_weighted_norm(norm):
    net, params, x = model()
    plain = autoencoder.loss(net, "bce", weight=6.0)
    terms, updates = contractive.loss(plain, norm(net), 0.3)({"params": params}, batch(x), new_key())
    without, _ = plain({"params": params}, batch(x), new_key())
    expected = exact(lambda x: net.apply({"params": params}, x, method="encode"), x)
    np.testing.assert_allclose(terms["jacobian"], expected, rtol=1e-5)
    np.testing.assert_allclose(terms["loss"], without["reconstruction"] + 0.3 * expected, rtol=1e-5)
    assert terms.keys() == without.keys() | {"jacobian"}
    assert equal(*({name: found[name] for name in without if name != "loss"} for found in (terms, without)))
    assert updates == {}


def test_collections_are_those_of_the_reconstruction_loss():
    net, params, x = model()
    plain = autoencoder.loss(net, "bce")

    def updating(variables, batch, key):
        return plain({"params": variables["params"]}, batch, key)[0], {
            "codebook": {"use": variables["codebook"]["use"] + 1}
        }

    loss = contractive.loss(updating, contractive.norm(net), 0.3)
    _, updates = loss({"params": params, "codebook": {"use": jnp.zeros(2)}}, batch(x), new_key())
    assert equal(updates, {"codebook": {"use": jnp.ones(2)}})


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
def test_gradient_of_the_penalty_of_convolutions_against_finite_differences(net):
    """Needs second derivatives of `cpu_convolution`."""
    net = net.clone(precision="float32")
    x = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    params = net.init(new_key(), x)

    @jax.jit
    def penalty(params):
        return contractive.frobenius(lambda x: net.apply(params, x), x).mean()

    check_grads(penalty, (params,), order=1, modes=["rev"], eps=1e-2, rtol=1e-2, atol=1e-2)


def test_gradient_in_mixed_precision_against_full_precision():
    """A directional derivative against the difference of values in full precision."""
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


def test_both_norms_have_the_same_gradient():
    net, params, x = model()

    def slope(norm):
        loss = contractive.loss(autoencoder.loss(net, "mse"), norm(net), 0.1)
        return gradient(lambda p, b: loss({"params": p}, b, new_key()), params, batch(x))[0]

    general, closed = slope(contractive.norm), slope(contractive.norm_of_tied)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), general, closed)


def test_closed_form_raises_unless_the_code_is_sigmoid():
    with pytest.raises(ValueError, match="sigmoid"):
        contractive.norm_of_tied(tied.Tied((2, 3), 4, nn.relu))


def test_experiment_is_in_nats_per_image():
    """Cross-entropy summed over pixels, plus the weight times the norm."""
    digits = data.load("digits").test.x[:8] / np.float32(255)
    built = experiment.build(experiment.Config(latent=12, contraction=0.5), data.Info((28, 28, 1), 100))
    params = built.model.init(new_key(), jnp.asarray(digits))["params"]
    terms, _ = built.evaluate({"params": params}, batch(digits), jax.random.key(1))
    np.testing.assert_allclose(terms["loss"], 784 * terms["bce"] + 0.5 * terms["jacobian"], rtol=1e-5)
    assert np.all(terms["jacobian"] > 0.1)
