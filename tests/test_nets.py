from functools import partial
from importlib import import_module

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.special import expit

from conftest import apply, compiled, equal, initial, new_key
from jaxae import data, nets
from jaxae.core.batch import AXIS
from jaxae.nets import layers

INFO = data.Info((28, 28, 1), 60_000)


def test_mlp_against_numpy():
    net = nets.MLP((7, 5), (2, 3), axes=2)
    x = np.asarray(jax.random.normal(jax.random.key(1), (4, 3, 2)))
    params = initial(net, x)
    h = x.reshape(4, 6)
    layers = [jax.tree.map(np.asarray, params["params"][f"Dense_{i}"]) for i in range(3)]
    for i, layer in enumerate(layers):
        h = h @ layer["kernel"] + layer["bias"][None]
        h = np.maximum(h, 0) if i < 2 else h
    np.testing.assert_allclose(apply(net, params, x), h.reshape(4, 2, 3), rtol=1e-5, atol=1e-6)


def test_mlp_accepts_leading_axes():
    net = nets.MLP((7,), (5,))
    x = np.asarray(jax.random.normal(jax.random.key(1), (4, 3, 2)))
    params = initial(net, x[0])
    each = np.stack([apply(net, params, row) for row in x])
    np.testing.assert_allclose(apply(net, params, x), each, rtol=1e-6, atol=1e-7)


def test_mlp_starts_from_glorot_uniform():
    kernel = np.asarray(initial(nets.MLP((), (200,)), np.zeros((1, 300)))["params"]["Dense_0"]["kernel"])
    bound = np.sqrt(6 / 500)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)


def test_mlp_last_layer_starts_from_last_bias():
    params = initial(nets.MLP((3,), (2,), last_bias=(0.5, -1.0)), np.zeros((1, 4)))["params"]
    np.testing.assert_array_equal(params["Dense_0"]["bias"], np.zeros(3))
    np.testing.assert_array_equal(params["Dense_1"]["bias"], [0.5, -1])


def test_mlp_activation_is_not_applied_last():
    net = nets.MLP((), (1,), activation=nn.sigmoid)
    params = initial(net, np.ones((1, 1)))
    kernel = np.asarray(params["params"]["Dense_0"]["kernel"])
    np.testing.assert_allclose(apply(net, params, np.full((1, 1), 9.0)), 9 * kernel)


def test_mixed_dot_multiplies_in_bfloat16_and_adds_in_float32():
    a, b = jax.random.normal(jax.random.key(0), (5, 6, 300)), jax.random.normal(jax.random.key(1), (300, 4))
    exact_a, exact_b = (np.asarray(v.astype(jnp.bfloat16), np.float64) for v in (a, b))
    out = jax.jit(layers.mixed_dot)(a, b)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, exact_a @ exact_b, rtol=1e-4, atol=1e-4)
    assert np.abs(out - np.asarray(a) @ np.asarray(b)).max() > 1e-3  # operands are rounded


def test_gradient_of_mixed_dot_equals_that_of_exact_products():
    a, b = jax.random.normal(jax.random.key(0), (5, 6, 30)), jax.random.normal(jax.random.key(1), (30, 4))
    g = jax.random.normal(jax.random.key(2), (5, 6, 4))
    a, b, g = (
        np.asarray(v).astype(jnp.bfloat16).astype(np.float32) for v in (a, b, g)
    )  # exactly representable, so that nothing is rounded

    @partial(jax.jit, static_argnums=0)
    def pulled(dot, a, b, g):
        return jax.vjp(dot, a, b)[1](g)

    ours, theirs = (pulled(dot, a, b, g) for dot in (layers.mixed_dot, partial(jnp.dot, precision="highest")))
    for mine, exact in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-5, atol=1e-5)


def test_mixed_dot_rejects_other_contractions():
    with pytest.raises(ValueError, match="last axis of the input with the first"):
        layers.dot_general("mixed")(jnp.ones((2, 3)), jnp.ones((2, 3)), (((1,), (1,)), ((), ())))


def test_mlp_in_mixed_precision_is_close_to_float32():
    x = jax.random.normal(jax.random.key(0), (8, 20))
    full, mixed = nets.MLP((30,), (3,)), nets.MLP((30,), (3,), precision="mixed")
    params = compiled(full, "init", jax.random.key(1), x)
    shapes = jax.eval_shape(mixed.init, jax.random.key(1), x)
    assert jax.tree.all(jax.tree.map(lambda p: p.dtype == jnp.float32, shapes))
    difference = np.abs(np.asarray(apply(full, params, x)) - apply(mixed, params, x)).max()
    assert 0 < difference < 0.05


def started(net, *args):
    """Random parameters and statistics, with nonzero biases."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, new_key(), *args)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(-0.5, 0.5, leaf.shape), jnp.float32), shapes)


def captured(net, *args):
    """The output, and the outputs of the layers by name."""
    call = partial(net.apply, mutable=["batch_stats", "intermediates"], capture_intermediates=True)
    y, changed = jax.jit(call)(*args)
    return y, {name: kept["__call__"][0] for name, kept in changed["intermediates"].items() if name != "__call__"}


@partial(jax.jit, static_argnames=("stride", "padding"))
def convolved(x, kernel, stride=1, padding="SAME"):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=dimensions)


def correlation(x, layer, stride=1, padding="SAME"):
    return np.asarray(convolved(x, layer["kernel"], stride=stride, padding=padding)) + np.asarray(layer["bias"])


def pooled(x, size):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, size, size, 1), "SAME")


@pytest.mark.parametrize("size", [(28, 28), (9, 5)])
def test_conv_against_lax(size):
    net = nets.Conv((3, 4), (3, 2), (2, 1), (1, 2), outputs=(2, 3), activation=jnp.tanh)
    x = jax.random.normal(new_key(), (2, *size, 2))
    params = started(net, x)["params"]
    h = np.tanh(correlation(x, params["Convolution_0"], 2))
    h = np.asarray(pooled(np.tanh(correlation(h, params["Convolution_1"])), 2))
    assert h.shape == (2, -(-size[0] // 4), -(-size[1] // 4), 4)
    dense = jax.tree.map(np.asarray, params["MLP_0"]["Dense_0"])
    expected = (h.reshape(2, -1) @ dense["kernel"] + dense["bias"][None]).reshape(2, 2, 3)
    np.testing.assert_allclose(apply(net, {"params": params}, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "code"), [((28, 28, 1), (4, 4)), ((9, 5, 2), (3, 2)), ((13, 14, 3), (4, 4))])
def test_upconv_against_lax(shape, code):
    """Outputs larger than the image are cropped; with one layer without padding: 4 -> 8 -> 16 -> 14 -> 28."""
    paddings = ("SAME", "SAME", "VALID") if shape[0] == 28 else ("SAME",)
    filters = (4, 3, 5)[: 3 if shape[0] == 28 else 2]
    net = nets.UpConv(shape, filters, (3,), paddings=paddings, activation=jnp.tanh)
    z = jax.random.normal(new_key(), (2, *code, 4))
    params = started(net, z)["params"]
    h = z
    for i in range(len(filters)):
        h = np.tanh(correlation(h, params[f"Convolution_{i}"], padding=(paddings * 3)[i]))
        h = h.repeat(2, 1).repeat(2, 2)
    h = correlation(h, params[f"Convolution_{len(filters)}"])[:, : shape[0], : shape[1]]
    np.testing.assert_allclose(apply(net, {"params": params}, z), h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "strides", "sizes"),
    [
        ((28, 28), (2, 2, 2, 2), [(14, 14), (7, 7), (4, 4), (2, 2)]),
        ((9, 5), (2, 3), [(5, 3), (2, 1)]),
        ((7, 10), (1, 2, 2), [(7, 10), (4, 5), (2, 3)]),
    ],
)
def test_deconv_is_the_transpose_of_conv(size, strides, sizes):
    """Without activations and biases, <conv(x), y> = <x, deconv(y)> for equal kernels."""
    filters, layers = (3, 4, 2, 5)[: len(strides)], len(strides)
    down = nets.Conv(filters, (3,), strides, activation=nets.linear)
    up = nets.Deconv((*size, 2), filters, (3,), strides, activation=nets.linear)
    x = jax.random.normal(new_key(), (2, *size, 2))
    params = {name: {**layer, "bias": 0 * layer["bias"]} for name, layer in started(down, x)["params"].items()}
    y, seen = captured(down, {"params": params}, x)
    convolutions = [seen[f"Convolution_{i}"] for i in range(layers)]
    assert [h.shape[1:3] for h in convolutions] == sizes
    mirrored = {f"TransposedConvolution_{layers - 1 - i}": params[f"Convolution_{i}"]["kernel"] for i in range(layers)}
    g = jax.random.normal(jax.random.key(1), y.shape)
    start = started(up, g)["params"]
    assert set(start) == set(mirrored)
    start = {name: {"kernel": mirrored[name], "bias": 0 * layer["bias"]} for name, layer in start.items()}
    back, seen = captured(up, {"params": start}, g)
    steps = [seen[f"TransposedConvolution_{i}"] for i in range(layers)]
    assert [h.shape[1:3] for h in steps] == [*sizes[-2::-1], size]
    np.testing.assert_allclose(np.vdot(y, g), np.vdot(x, back), rtol=1e-4)


@pytest.mark.parametrize("build", [nets.UpConv, nets.Deconv])
def test_image_decoder_starts_from_its_bias(build):
    """With all other biases 0, a code of 0 is decoded to the last bias."""
    net = build((6, 6, 2), (3, 4), bias=-1.5)
    code = np.zeros((2, 6, 6, 4) if build is nets.Deconv else (2, 3, 3, 4), np.float32)
    assert equal(apply(net, initial(net, code), code), np.full((2, 6, 6, 2), -1.5, np.float32))


def test_deconv_has_a_linear_last_layer_and_a_dense_layer_for_flat_codes():
    net = nets.Deconv((5, 6, 1), (2, 3), (3,), (1, 2), activation=jnp.tanh)
    z = jax.random.normal(new_key(), (4, 2))
    params = started(net, z)["params"]
    names = ("MLP_0", "TransposedConvolution_0", "TransposedConvolution_1")
    dense, first, last = (jax.tree.map(np.asarray, params[name]) for name in names)
    h = (np.asarray(z) @ dense["Dense_0"]["kernel"] + dense["Dense_0"]["bias"][None]).reshape(4, 3, 3, 3)
    for size, stride, activation, layer in (((5, 6), 2, np.tanh, first), ((5, 6), 1, np.asarray, last)):
        image = jax.ShapeDtypeStruct((4, *size, layer["kernel"].shape[2]), jnp.float32)
        conv = partial(convolved, kernel=layer["kernel"], stride=stride)
        h = activation(np.asarray(jax.linear_transpose(conv, image)(h)[0]) + layer["bias"])
    np.testing.assert_allclose(apply(net, {"params": params}, z), h, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "net",
    [
        nets.Conv((3,), strides=(2,), pools=(2,), outputs=(4,)),
        nets.UpConv((6, 6, 3), (2,)),
        nets.Deconv((6, 6, 1), (2, 3), strides=(2, 1)),
    ],
)
def test_image_nets_accept_leading_axes(net):
    x = np.asarray(jax.random.normal(new_key(), (2, 3, 3, 3, 3)))
    params = started(net, x[0])
    each = np.stack([apply(net, params, row) for row in x])
    np.testing.assert_allclose(apply(net, params, x), each, rtol=1e-5, atol=1e-6)


DEEP = 784 * 128 + 128 + 128 * 64 + 64 + 64 * 32 + 32 + 32 * 64 + 64 + 64 * 128 + 128 + 128 * 784 + 784
COUNTS = {
    "vae": 784 * 256 + 256 + 256 * 4 + 4 + 2 * 256 + 256 + 256 * 784 + 784,
    "dense": 784 * 512 + 512 + 512 * 128 + 128 + 128 * 10 + 10 + 10 * 128 + 128 + 128 * 512 + 512 + 512 * 784 + 784,
    "simple": 784 * 32 + 32 + 32 * 784 + 784,
    "sparse": 784 * 32 + 32 + 32 * 784 + 784,
    "tied": 784 * 32 + 32 + 784,
    "deep": DEEP,
    "stacked": DEEP,
    "planar": 784 * 128
    + 128
    + 128 * 64
    + 64
    + 64 * 10
    + 10
    + 10 * 2
    + 2  # to 2-D codes,
    + 2 * 10
    + 10
    + 10 * 64
    + 64
    + 64 * 128
    + 128
    + 128 * 784
    + 784,  # and back
    "sigmoid": 784 * 256 + 256 + 256 * 128 + 128 + 128 * 256 + 256 + 256 * 784 + 784,
    "convolutional": 4385,  # as printed by the source
    "denoising": 9 * (32 + 32 * 64 + 64 * 128 + 128 * 128 + 128 * 64 + 64) + 32 + 64 + 128 + 128 + 64 + 1,
    "denoising_conv32": 9 * (32 + 3 * 32 * 32 + 32) + 4 * 32 + 1,
    "mirrored": 9 * (32 + 32 * 64 + 2 * 64 * 64)
    + 32
    + 3 * 64
    + 3136 * 2
    + 2  # to 2-D codes,
    + 2 * 3136
    + 3136
    + 9 * (2 * 64 * 64 + 64 * 32 + 32)
    + 64
    + 64
    + 32
    + 1,  # and back
    "strided": 2 * 9 * (16 + 16 * 32 + 32 * 64 + 64 * 128) + 16 + 32 + 64 + 128 + 64 + 32 + 16 + 1,
    "sequence": 4 * (28 * 64 + 64 * 64 + 64) + 4 * (64 * 128 + 128 * 128 + 128) + 128 * 28 + 28,
}


@pytest.mark.parametrize("name", COUNTS)
def test_networks_have_the_expected_number_of_parameters(name):
    experiment = import_module(f"jaxae.experiments.{name}")
    model = experiment.build(experiment.Config(), INFO).model
    params = jax.eval_shape(model.init, new_key(), jnp.zeros((1, *INFO.shape)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]


def test_dropout_zeroes_its_fraction_and_keeps_the_mean():
    n, rate = 40_000, 0.3
    x = jnp.ones((200, 10, 20))
    y = np.asarray(apply(nets.Regularization(False, rate), {}, x, jax.random.split(new_key(), 200), None))
    kept = np.count_nonzero(y)
    np.testing.assert_array_equal(y[y != 0], np.float32(1 / np.float32(0.7)))
    assert abs(kept - (1 - rate) * n) < 4 * np.sqrt(n * rate * (1 - rate))
    assert abs(y.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / n)
    assert equal(nets.Regularization(False, 0.0).apply({}, x, jax.random.split(new_key(), 200), None), x)


def test_dropout_rate_of_one_raises():
    with pytest.raises(ValueError, match="dropout=1.0 must be below 1"):
        nets.Regularization(False, 1.0).apply({}, jnp.ones((2, 3)), None, None)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x, keys):
        return [nets.Regularization(False, 0.5)(x, keys, None) for _ in range(2)]


def test_dropout_is_a_function_of_the_example_and_of_the_layer():
    x = np.ones((4, 50), np.float32)

    def keys():
        return jax.random.split(new_key(), 4)

    def twice(x, keys):
        return jax.tree.map(np.asarray, apply(Twice(), {}, x, keys))

    first, second = twice(x, keys())
    assert np.any(first != second)
    assert np.any(first[0] != first[1])
    assert equal(twice(x[::-1], keys()[::-1]), [first[::-1], second[::-1]])
    assert equal(twice(x[2:3], keys()[2:3]), [first[2:3], second[2:3]])
    assert equal(twice(x, None), [x, x])


def test_batch_norm_against_numpy():
    net = nets.Regularization(True, 0.0)
    x = 2 + 3 * np.asarray(jax.random.normal(new_key(), (6, 4, 5, 3)))
    start = started(net, x, None, None)
    start["batch_stats"] = jax.tree.map(lambda v: v + 2, start["batch_stats"])
    before = start["batch_stats"]["BatchNorm_0"]
    scale, bias = (np.asarray(start["params"]["BatchNorm_0"][name]) for name in ("scale", "bias"))
    exact = np.asarray(x, np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    train = jax.jit(partial(net.apply, mutable=["batch_stats"]))
    y, changed = train(start, x, jax.random.split(new_key(), 6), None)
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-3) * scale + bias, rtol=1e-4, atol=1e-5)
    moved = changed["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(moved["mean"], 0.99 * np.asarray(before["mean"]) + 0.01 * mean, rtol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.99 * np.asarray(before["var"]) + 0.01 * var, rtol=1e-6)
    y, changed = train(start, x, None, None)
    old, spread = (np.asarray(before[name]) for name in ("mean", "var"))
    np.testing.assert_allclose(y, (exact - old) / np.sqrt(spread + 1e-3) * scale + bias, rtol=1e-5, atol=1e-5)
    assert equal(changed["batch_stats"], start["batch_stats"])


@pytest.mark.parametrize("axis", [None, AXIS])
def test_batch_norm_of_means_far_above_the_deviation_has_no_cancellation_error(axis):
    """On one device, and on two: each has half of the batch."""
    net = nets.Regularization(True, 0.0)
    x = 1000 + np.float32(0.1) * np.asarray(jax.random.normal(new_key(), (64, 4, 4, 2)))
    start = started(net, x, None, None)

    def train(x):
        return net.apply(start, x, jax.random.split(new_key(), len(x)), axis, mutable=["batch_stats"])

    halves = x.reshape(2, 32, 4, 4, 2)
    y, changed = jax.jit(train)(x) if axis is None else jax.jit(jax.vmap(train, axis_name=axis))(halves)
    scale, bias = (np.asarray(start["params"]["BatchNorm_0"][name])[None] for name in ("scale", "bias"))
    exact = np.asarray(x, np.float64).reshape(-1, 2)
    mean, var = exact.mean(0, keepdims=True), exact.var(0, keepdims=True)
    expected = (exact - mean) / np.sqrt(var + 1e-3) * scale + bias
    np.testing.assert_allclose(np.reshape(y, (-1, 2)), expected, atol=5e-3)
    moved = np.reshape(changed["batch_stats"]["BatchNorm_0"]["var"], (-1, 2))
    before = np.asarray(start["batch_stats"]["BatchNorm_0"]["var"])[None]
    np.testing.assert_allclose((moved - 0.99 * before) / 0.01, np.broadcast_to(var, moved.shape), rtol=1e-2)


@pytest.mark.parametrize(
    "net",
    [
        nets.Conv((2, 3), activation=jnp.tanh, batch_norm=True),
        nets.Deconv((4, 4, 1), (1, 2, 2), activation=jnp.tanh, batch_norm=True),
    ],
)
def test_batch_norm_over_an_axis_of_devices_is_that_of_the_global_batch(net):
    x = jax.random.normal(new_key(), (6, 4, 4, 2))
    variables = jax.jit(net.init)(new_key(), x)

    def train(x, keys, axis):
        return net.apply(variables, x, keys, axis, mutable=["batch_stats"])

    y, changed = jax.jit(partial(train, axis=None))(x, jax.random.split(new_key(), 6))
    halves = x.reshape(2, 3, 4, 4, 2), jax.random.split(new_key(), (2, 3))
    found, moved = jax.jit(jax.vmap(partial(train, axis=AXIS), axis_name=AXIS))(*halves)
    np.testing.assert_allclose(found.reshape(y.shape), y, rtol=1e-4, atol=1e-5)
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), changed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), moved, both)
    alone, _ = jax.jit(jax.vmap(partial(train, axis=None)))(*halves)
    assert np.abs(alone.reshape(y.shape) - y).max() > 1e-3


@pytest.mark.parametrize(
    "net",
    [
        nets.Conv((2, 3), activation=jnp.tanh, batch_norm=True, dropout=0.5, pools=(2, 1)),
        nets.Deconv((4, 4, 1), (1, 2), activation=jnp.tanh, batch_norm=True, dropout=0.5),
    ],
)
def test_regularization_follows_the_activation_of_hidden_layers(net):
    """Pooling follows dropout; the output of a decoder's last layer has no dropout."""
    x = jax.random.normal(new_key(), (3, 4, 4, 1 if isinstance(net, nets.Conv) else 2))
    variables = jax.jit(net.init)(new_key(), x)
    keys = jax.random.split(new_key(), 3)
    y, seen = captured(net, variables, x, keys)
    params = variables["params"]
    layers = sorted(name for name in seen if "Convolution" in name)
    assert len([name for name in seen if name.startswith("Regularization")]) == (2 if isinstance(net, nets.Conv) else 1)
    h = np.tanh(np.asarray(seen[layers[0]], np.float64))
    normal = (h - h.mean((0, 1, 2))) / np.sqrt(h.var((0, 1, 2)) + 1e-3)
    out = np.asarray(seen["Regularization_0"])
    np.testing.assert_allclose(out[out != 0], 2 * normal[out != 0], rtol=1e-3, atol=1e-4)
    assert 0.2 < (out == 0).mean() < 0.8
    if isinstance(net, nets.Conv):
        below = np.asarray(correlation(pooled(out, 2), params[layers[1]]))
        np.testing.assert_allclose(seen[layers[1]], below, rtol=1e-4, atol=1e-5)
    else:
        assert equal(y, seen[layers[1]])


def test_inconsistent_lists_and_shapes_raise_one_line_errors():
    x = jnp.zeros((1, 8, 8, 1))
    for net, says in (
        (nets.Conv((2, 3, 4), kernels=(3, 3)), r"kernels=\[3, 3\]: 2 values for 3 filters; use 3, or one for all"),
        (nets.Conv((2, 3), strides=()), r"strides=\[\]: 0 values for 2"),
        (nets.Conv((2,), pools=(2, 2)), r"pools=\[2, 2\]: 2 values for 1"),
        (
            nets.UpConv((8, 8, 1), (2, 3, 4), paddings=("SAME", "VALID")),
            r"paddings=\['SAME', 'VALID'\]: 2 values for 3",
        ),
        (nets.Deconv((8, 8, 1), (2, 3), strides=(1, 2, 2)), r"strides=\[1, 2, 2\]: 3 values for 2"),
        (nets.UpConv((17, 16, 1), (2,)), "the output of 16x16 is smaller than images of 17x16"),
        (nets.UpConv((16, 17, 1), (2,)), "the output of 16x16 is smaller than images of 16x17"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            jax.eval_shape(net.init, new_key(), x)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["convolutional", "denoising", "denoising_conv32", "mirrored", "strided"])
def test_image_experiments_reject_sequences(name):
    experiment = import_module(f"jaxae.experiments.{name}")
    model = experiment.build(experiment.Config(), data.Info((7, 3), 100)).model
    with pytest.raises(ValueError, match=r"examples of shape \(7, 3\) are not images: this net needs \[H, W, C\]"):
        jax.eval_shape(model.init, new_key(), jnp.zeros((2, 7, 3)))


def lstm(cell, x):
    """[T, D] -> outputs [T, width] (Gers et al. 2000)."""
    h = c = np.zeros(cell["bias"].shape[1])
    outputs = []
    for row in x:
        i, f, g, o = np.split(row @ cell["kernel"] + h @ cell["recurrent"] + cell["bias"].ravel(), 4)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def test_lstm_against_numpy():
    net = nets.LSTM(4)
    x = jax.random.normal(new_key(), (5, 6, 3))
    params = started(net, x)
    cell = jax.tree.map(lambda p: np.asarray(p, np.float64), params["params"])
    exact = [lstm(cell, row) for row in np.asarray(x, np.float64)]
    outputs, last = apply(net, params, x)
    np.testing.assert_allclose(outputs, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, [out[-1] for out in exact], rtol=1e-5, atol=1e-6)
    lengths = [6, 1, 3, 5, 2]
    mask = (np.arange(6)[None] < np.array(lengths)[:, None]).astype(np.float32)
    outputs, last = map(np.asarray, apply(net, params, x, mask))
    np.testing.assert_allclose(last, [out[n - 1] for out, n in zip(exact, lengths, strict=True)], rtol=1e-5, atol=1e-6)
    for out, row, n in zip(outputs, exact, lengths, strict=True):
        np.testing.assert_allclose(out[:n], row[:n], rtol=1e-5, atol=1e-6)


def test_lstm_starts_from_the_initial_values_of_keras():
    """One Glorot-uniform and one orthogonal matrix for all four gates; the forget gate has bias 1, the others 0."""
    cell = initial(nets.LSTM(40), np.zeros((1, 2, 60)))["params"]
    bound = np.sqrt(6 / (60 + 4 * 40))
    assert 0.99 * bound < np.abs(cell["kernel"]).max() <= bound
    kernel = np.asarray(cell["recurrent"], np.float64)
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(40), atol=1e-5)
    np.testing.assert_array_equal(cell["bias"], np.repeat([[0], [1], [0], [0]], 40, axis=1))


def test_only_the_last_layer_of_upconv_starts_from_the_bias():
    params = initial(nets.UpConv((4, 4, 2), (3,), bias=-1.9), np.zeros((1, 2, 2, 1)))["params"]
    np.testing.assert_array_equal(params["Convolution_0"]["bias"], np.zeros((1, 1, 1, 3)))
    np.testing.assert_array_equal(params["Convolution_1"]["bias"], np.full((1, 1, 1, 2), -1.9, np.float32))


SIZES = [(1, 1), (2, 3), (7, 7), (28, 20), (31, 64), (32, 32), (64, 64), (128, 96), (255, 256)]


@pytest.mark.parametrize(
    "name", ["convolutional", "denoising", "denoising_conv32", "mirrored", "strided", "vqvae", "fsq"]
)
def test_image_experiments_take_every_size(name):
    experiment = import_module(f"jaxae.experiments.{name}")
    for size in SIZES:
        shape = (*size, 3)
        model = experiment.build(experiment.Config(), data.Info(shape, 100)).model
        variables = jax.eval_shape(model.init, new_key(), jnp.zeros((2, *shape)))

        def decoded(variables, x, model=model):
            return model.apply(variables, model.apply(variables, x, method="encode"), method="decode")

        assert jax.eval_shape(decoded, variables, jnp.zeros((2, *shape))).shape == (2, *shape)
