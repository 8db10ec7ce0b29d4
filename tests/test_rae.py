"""The regularized autoencoder: its terms, the gradient penalty, and kernels of bounded spectral norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from conftest import batch, new_key
from jaxae import nets
from jaxae.core.types import Info
from jaxae.experiments import rae as experiment
from jaxae.variants import autoencoder, constraints, rae

rng = np.random.default_rng(0)
X = rng.random((5, 2, 3, 1)).astype(np.float32)
W, B = rng.normal(size=(2, 6)), rng.normal(size=(1, 6))
V = rng.normal(size=(6, 2))


@pytest.fixture(scope="module")
def model():
    """Linear encoder V, decoder sigmoid(z W + b), and their parameters."""
    net = autoencoder.Autoencoder(nets.MLP((), (2,), axes=3), nets.MLP((), X.shape[1:]))
    shapes = jax.eval_shape(net.init, new_key(), jnp.asarray(X))["params"]
    named = {"encoder": {"kernel": V, "bias": np.zeros((1, 2))}, "decoder": {"kernel": W, "bias": B}}

    def value(path, leaf):
        group, *_, name = (part.key for part in path)
        return jnp.asarray(named[group][name].reshape(leaf.shape), jnp.float32)

    return net, {"params": jax.tree_util.tree_map_with_path(value, shapes)}


def decoded():
    """Codes, and decoded values with their slope, in float64."""
    z = X.reshape(5, 6).astype(np.float64) @ V
    y = 1 / (1 + np.exp(-(z @ W + B)))
    return z, y


@pytest.mark.parametrize("penalty", ["none", "l2"])
def test_loss_against_numpy(model, penalty):
    net, variables = model
    terms, updates = jax.jit(lambda v: rae.loss(net, 0.3, penalty, 0.7)(v, batch(X), new_key()))(variables)
    z, y = decoded()
    expected = {"reconstruction": ((y - X.reshape(5, 6)) ** 2).sum(1), "code": (z**2).sum(1) / 2}
    expected["loss"] = expected["reconstruction"] + 0.3 * expected["code"]
    if penalty == "l2":
        expected["penalty"] = np.full(5, (W**2).sum() + (B**2).sum())
        expected["loss"] = expected["loss"] + 0.7 * expected["penalty"]
    assert set(terms) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], values, rtol=1e-5, err_msg=name)
    assert updates == {}


def test_gradient_penalty_is_half_the_squared_norm_of_the_jacobian_on_average(model):
    net, variables = model
    loss = rae.loss(net, 0.3, "gradient", 0.7)
    keys = jax.random.split(new_key(), 4000)
    terms = jax.jit(jax.vmap(lambda key: loss(variables, batch(X), key)[0]))(keys)
    found = np.asarray(terms["penalty"], np.float64)
    _, y = decoded()
    exact = (((y * (1 - y))[:, :, None] * W.T[None]) ** 2).sum((1, 2)) / 2
    error = found.std(0) / np.sqrt(len(found))
    np.testing.assert_array_less(np.abs(found.mean(0) - exact), 4 * error)
    np.testing.assert_array_less(4 * error, 0.1 * exact)
    np.testing.assert_allclose(
        terms["loss"], terms["reconstruction"] + 0.3 * terms["code"] + 0.7 * terms["penalty"], rtol=1e-5
    )


def test_kernels_keep_a_spectral_norm_of_at_most_1():
    """Power iteration finds the largest singular value; smaller kernels, biases and other groups only descend."""
    row = np.full((1, 9), 2.0)
    large, small = rng.normal(size=(3, 3, 2, 5)), 0.05 * rng.normal(size=(4, 3))
    decoder = {"large": {"kernel": large}, "small": {"kernel": small, "bias": 7 * np.ones(3)}, "row": {"kernel": row}}
    params = jax.tree.map(jnp.float32, {"encoder": {"kernel": large}, "decoder": decoder})
    optimizer = constraints.spectral(optax.sgd(0.1))
    grads = jax.tree.map(lambda leaf: 0.01 * jnp.ones_like(leaf), params)
    grads["decoder"]["large"]["kernel"] *= 0
    grads["decoder"]["row"]["kernel"] *= 0

    def step(carry, _):
        updates, state = optimizer.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    new, _ = jax.jit(lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=50)[0])(params)
    expected = large / np.linalg.norm(large.reshape(18, 5), 2)
    np.testing.assert_allclose(new["decoder"]["large"]["kernel"], expected, rtol=1e-3, atol=1e-4)
    moved = params["decoder"]["small"]["kernel"] - 50 * 0.1 * 0.01
    np.testing.assert_allclose(new["decoder"]["small"]["kernel"], moved, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new["decoder"]["row"]["kernel"], row / 6, rtol=1e-5)
    np.testing.assert_allclose(new["decoder"]["small"]["bias"], 7 - 0.05, rtol=1e-6)
    np.testing.assert_allclose(new["encoder"]["kernel"], params["encoder"]["kernel"] - 0.05, rtol=1e-5, atol=1e-6)


def test_spectral_experiment_bounds_the_kernels_of_its_decoder():
    x = rng.random((40, 6)).astype(np.float32)
    fields = {"hidden": (9,), "latent": 1, "epochs": 40, "batch_size": 20, "lr": 0.1, "progress": False}
    norms = {}
    for penalty in ("spectral", "none"):
        flat = jax.tree_util.tree_leaves_with_path(jaxae.fit("rae", x, penalty=penalty, **fields).params["decoder"])
        norms[penalty] = [float(np.linalg.norm(leaf, 2)) for path, leaf in flat if path[-1].key == "kernel"]
    assert len(norms["spectral"]) == 2
    assert max(norms["spectral"]) < 1.1 < max(norms["none"])


def test_weight_without_a_regularizer_raises():
    config = experiment.Config(penalty="none", penalty_weight=0.5)
    with pytest.raises(ValueError, match="penalty_weight=0.5 has no effect with penalty=none"):
        experiment.build(config, Info((6,), 40))
