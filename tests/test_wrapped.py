from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import foreign
from conftest import batch, equal, new_key
from jaxae import nets, run
from jaxae.core.reduction import gradient
from jaxae.data import Dataset, Split
from jaxae.training.checkpoint import Checkpoints
from jaxae.training.iterate import iterate
from jaxae.variants import autoencoder

SHAPE = (3, 2, 1)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.random((8, *SHAPE), np.float32))


class NNX(nnx.Module):
    """Two dense layers."""

    def __init__(self, sizes, outputs, rngs):
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in pairwise(sizes)])
        self.outputs = outputs

    def __call__(self, x):
        first, last = self.layers
        return last(nnx.relu(first(x.reshape(len(x), -1)))).reshape(-1, *self.outputs)


@jax.tree_util.register_pytree_with_keys_class
@dataclass
class Module:
    """Like an Equinox module: a pytree whose leaves are arrays and functions, called with a single example."""

    weights: list
    activation: object
    outputs: tuple
    mask: jax.Array

    def tree_flatten_with_keys(self):
        names = ("weights", "activation", "mask")
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], self.outputs

    @classmethod
    def tree_unflatten(cls, outputs, leaves):
        return cls(*leaves[:2], outputs, leaves[2])

    def __call__(self, x):
        (a, b), (c, d) = self.weights
        y = d + c.T @ self.activation(b + a.T @ x.reshape(-1))
        return jnp.where(self.mask > 0, y, 0).reshape(self.outputs)


def random_layers(key, sizes):
    keys = jax.random.split(key, 2)
    return [(jax.random.normal(k, (a, b)), jnp.ones(b)) for k, a, b in zip(keys, sizes, sizes[1:], strict=False)]


def of_nnx(sizes, outputs):
    return nets.wrap(lambda key: NNX(sizes, outputs, nnx.Rngs(key)))


def of_pytree(sizes, outputs):
    return nets.wrap(lambda key: Module(random_layers(key, sizes), jax.nn.relu, outputs, jnp.ones(sizes[-1], int)))


def of_functions(sizes, outputs):
    def apply(layers, x):
        (a, b), (c, d) = layers
        h = jax.nn.relu(x.reshape(len(x), -1) @ a + b[None])
        return (h @ c + d[None]).reshape(-1, *outputs)

    return nets.wrap(lambda key: random_layers(key, sizes), apply)


# Names of the parameters of Flax Linen's `Dense_0` and `Dense_1`.
NAMES = {
    of_nnx: ("layers.{}.kernel", "layers.{}.bias"),
    of_pytree: ("weights.{}.0", "weights.{}.1"),
    of_functions: ("{}.0", "{}.1"),
}


def renamed(params, names):
    """The parameters of an autoencoder of `nets.MLP` under other names."""
    return {
        net: {
            name.format(i): layers[f"Dense_{i}"][kind]
            for i in (0, 1)
            for kind, name in zip(("kernel", "bias"), names, strict=True)
        }
        for net, layers in params.items()
    }


@pytest.mark.parametrize("kind", NAMES)
def test_loss_and_gradient_equal_those_of_flax_linen_with_the_same_parameters(kind):
    linen = autoencoder.Autoencoder(*autoencoder.dense(SHAPE, (5,), 4))
    wrapped = autoencoder.Autoencoder(kind((6, 5, 4), (4,)), kind((4, 5, 6), SHAPE))
    params = jax.jit(linen.init)(new_key(), X)["params"]
    own = jax.jit(wrapped.init)(new_key(), X)
    values = renamed(params, NAMES[kind])
    assert jax.tree.map(jnp.shape, own["params"]) == jax.tree.map(jnp.shape, values)
    rest = {name: part for name, part in own.items() if name != "params"}

    def terms(model, params, more):
        loss = autoencoder.loss(model, "bce")
        descent = jax.jit(lambda p, m, part: gradient(lambda p, b: loss({"params": p, **m}, b, new_key()), p, part))
        return descent(params, more, batch(X))

    grads, metrics, _ = terms(linen, params, {})
    found, measured, _ = terms(wrapped, values, rest)
    assert np.linalg.norm(grads["encoder"]["Dense_0"]["kernel"]) > 1e-3
    for a, b in ((renamed(grads, NAMES[kind]), found), (metrics, measured)):
        jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-7), a, b)


def test_initial_parameters_are_those_of_the_net_with_a_key_of_its_own():
    model = autoencoder.Autoencoder(of_functions((6, 5, 6), SHAPE), of_functions((6, 5, 6), SHAPE))
    a, b = (model.init(new_key(), X)["params"][name]["0.0"] for name in ("encoder", "decoder"))
    assert not np.allclose(a, b)
    fixed = nets.wrap(
        lambda _: {"w": np.float32(3) * np.ones((1, 2), np.float32), "n": 2}, lambda p, x: p["n"] * p["w"] * x
    )
    variables = fixed.init(new_key(), jnp.ones((1, 2)))
    assert list(variables["params"]) == ["w"]
    np.testing.assert_array_equal(fixed.apply(variables, jnp.full((1, 2), 5.0)), [[30, 30]])


class Noisy(nnx.Module):
    """Batch norm after dropout, or before it."""

    def __init__(self, rngs, rate):
        self.norm = nnx.BatchNorm(6, momentum=0.75, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs) if rate else None

    def __call__(self, x):
        y = self.norm(x)
        return y if self.dropout is None else self.dropout(y)


def test_dropout_of_nnx_is_a_function_of_the_key_of_the_example():
    net = nets.wrap(lambda key: Noisy(nnx.Rngs(key), 0.25))
    x = (RNG.normal(size=(4000, 6)) + 3).astype(np.float32)
    variables = jax.jit(net.init)(new_key(), x[:1])
    keys = jax.random.split(new_key(), len(x))
    train = jax.jit(partial(net.apply, mutable=["batch_stats"]))
    y, updates = jax.tree.map(np.asarray, train(variables, x, jax.random.clone(keys)))
    normal = (x - x.mean(0)[None]) / np.sqrt(x.var(0) + 1e-5)[None]
    kept = y != 0
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_allclose(y[kept], (normal / 0.75)[kept], rtol=1e-3, atol=1e-4)
    assert np.abs(np.corrcoef(kept.T)[0, 1:]).max() < 0.05
    np.testing.assert_allclose(updates["batch_stats"]["norm.mean"], 0.25 * x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["norm.var"], 0.75 + 0.25 * x.var(0), rtol=1e-4)
    again, _ = train(variables, x[::-1], jax.random.clone(keys)[::-1])
    np.testing.assert_array_equal(np.asarray(again != 0)[::-1], kept)
    still = jax.jit(net.apply)({**variables, **updates}, x)
    mean, var = 0.25 * x.mean(0), 0.75 + 0.25 * x.var(0)
    np.testing.assert_allclose(still, (x - mean[None]) / np.sqrt(var + 1e-5)[None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rate", [0, 0.5])
def test_batch_norm_of_nnx_takes_the_mean_over_all_devices(rate):
    net = nets.wrap(lambda key: Noisy(nnx.Rngs(key), rate))
    x = RNG.normal(size=(8, 6)).astype(np.float32)
    variables = jax.jit(net.init)(new_key(), x)
    keys = jax.random.split(new_key(), 8)
    whole = jax.jit(partial(net.apply, mutable=["batch_stats"]))(variables, x, jax.random.clone(keys))

    def on_device(x, keys):
        return net.apply(variables, x, keys, "devices", mutable=["batch_stats"])

    split = jax.jit(jax.vmap(on_device, axis_name="devices"))
    parts = split(x.reshape(2, 4, 6), jax.random.clone(keys).reshape(2, 4))
    np.testing.assert_allclose(np.asarray(parts[0]).reshape(8, 6), whole[0], rtol=1e-5, atol=1e-6)
    for name, value in whole[1]["batch_stats"].items():
        np.testing.assert_allclose(parts[1]["batch_stats"][name], np.stack([value] * 2), rtol=1e-5)


def test_functions_with_noise_receive_keys_in_training_only():
    def apply(scale, x, keys):
        noise = 0 if keys is None else jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)
        return scale * x + noise

    net = nets.wrap(lambda key: jnp.float32(2), apply, noise=True)
    variables = net.init(new_key(), jnp.ones((3, 2)))
    np.testing.assert_array_equal(net.apply(variables, jnp.ones((3, 2))), np.full((3, 2), 2))
    noisy = net.apply(variables, jnp.ones((3, 2)), jax.random.split(new_key(), 3))
    assert len(np.unique(noisy)) == 6


def test_conflicting_arguments_raise():
    with pytest.raises(ValueError, match="noise=True has no effect without apply"):
        nets.wrap(lambda key: {}, noise=True)
    with pytest.raises(ValueError, match="two arrays of the net have the same name; rename one of"):
        nets.wrap(lambda key: {"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, len).init(new_key(), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="apply has no effect on an NNX module"):
        nets.wrap(lambda key: nnx.Linear(2, 2, rngs=nnx.Rngs(key)), lambda net, x: x).init(new_key(), jnp.ones((1, 2)))


SPLITS = [Split((255 * RNG.random((n, 4, 4, 1))).astype(np.uint8), np.zeros(n, np.int32)) for n in (30, 10)]
DATA = Dataset(*SPLITS, ("0",))


def last(seed, seeds=1, resume=None, epochs=2):
    config = foreign.Config(hidden=6)
    experiment = run.built(config, foreign.build, DATA.info)
    return [*iterate(experiment, DATA, epochs=epochs, batch_size=8, seed=seed, seeds=seeds, resume=resume)][-1]


@pytest.mark.slow
def test_resume_from_a_checkpoint_is_bit_exact_and_seeds_equal_single_runs(tmp_path):
    """The encoder is an NNX module with batch norm and dropout, the decoder a pair of pure functions."""
    whole, half = last(3), last(3, epochs=1)
    items = {"state": half.state, "totals": half.totals}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(half.step, items, {})
    with Checkpoints(tmp_path) as checkpoints:
        restored, _ = checkpoints.restore(jax.eval_shape(lambda: items))
    resumed = last(3, resume=(restored["state"], restored["totals"]))
    assert equal(resumed.state, whole.state)
    assert not equal(whole.state.extra, half.state.extra)
    both = last(3, 2)
    for i in (0, 1):
        one = whole if i == 0 else last(4)
        near = lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)  # noqa: E731
        jax.tree.map(near, (both.state.params, both.state.extra), (one.state.params, one.state.extra))
