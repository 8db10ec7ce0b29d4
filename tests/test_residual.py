"""Residual networks and self-attention against NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from conftest import apply, new_key
from jaxae import nets
from jaxae.nets import residual
from jaxae.nets.attention import attention

rng = np.random.default_rng(0)


def randomized(params):
    """The parameters with every number replaced, so that none is 0 or 1."""
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32), params)


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, p, groups):
    """(x - mean) / std of each group of channels of each example, times scale plus bias."""
    parts = np.split(x, groups, axis=-1)
    normed = [
        (part - part.mean((1, 2, 3), keepdims=True)) / np.sqrt(part.var((1, 2, 3), keepdims=True) + 1e-6)
        for part in parts
    ]
    return np.concatenate(normed, axis=-1) * np.asarray(p["scale"]) + np.asarray(p["bias"])


@jax.jit
def convolved(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv(x, p):
    return np.asarray(convolved(x.astype(np.float32), p["kernel"]), np.float64) + np.asarray(p["bias"])


def random_parameters(net, x):
    return randomized(jax.eval_shape(net.init, new_key(), x.astype(np.float32))["params"])


def dense(x, p):
    return x @ np.asarray(p["kernel"], np.float64) + np.asarray(p["bias"])


def test_block_against_numpy():
    """Two groups of eight channels; with squeeze-and-excitation."""
    net = residual.Block(squeeze=True)
    x = rng.normal(2, 3, (2, 5, 4, 16))
    p = random_parameters(net, x)
    y = conv(silu(group_norm(x, p["first_norm"], 2)), p["first"])
    y = conv(silu(group_norm(y, p["last_norm"], 2)), p["last"])
    hidden = np.maximum(dense(y.mean((1, 2)), p["gate"]["Dense_0"]), 0)
    gate = 1 / (1 + np.exp(-dense(hidden, p["gate"]["Dense_1"])))
    expected = x + y * gate[:, None, None]
    found = apply(net, {"params": p}, x.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def heads_of(x, p, name, heads):
    return np.split(dense(x, p[name]), heads, axis=-1)


def test_self_attention_against_numpy():
    net = nets.SelfAttention(heads=3)
    x = rng.normal(size=(2, 5, 12))
    p = random_parameters(net, x)
    mixed = []
    for query, key, value in zip(*(heads_of(x, p, name, 3) for name in ("query", "key", "value")), strict=True):
        scores = np.exp(np.einsum("btd,bsd->bts", query, key) / 2)  # four channels each
        mixed.append(np.einsum("bts,bsd->btd", scores / scores.sum(-1, keepdims=True), value))
    expected = heads_of(np.concatenate(mixed, axis=-1), p, "output", 1)[0]
    np.testing.assert_allclose(apply(net, {"params": p}, x.astype(np.float32)), expected, rtol=1e-4, atol=1e-4)


def test_mixed_precision_rounds_the_operands_of_attention_only():
    q, k, v = (jnp.asarray(rng.normal(size=(2, 5, 3, 4)), jnp.float32) for _ in range(3))
    attend = jax.jit(attention, static_argnums=3)
    exact, rounded = (
        attend(*(a.astype(kind).astype(jnp.float32) for a in (q, k, v)), "float32")
        for kind in (jnp.float32, jnp.bfloat16)
    )
    found = attend(q, k, v, "mixed")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded, atol=0.02)  # the weights are rounded once more
    assert np.abs(found - exact).max() > 1e-4


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="heads=5 does not divide 12 channels; use a divisor"):
        nets.SelfAttention(heads=5).init(new_key(), jnp.zeros((1, 2, 12)))


def test_gated_mlp_against_numpy():
    net = nets.GatedMLP(7)
    x = rng.normal(size=(2, 3, 4))
    p = random_parameters(net, x)
    gate, value = (heads_of(x, p, name, 1)[0] for name in ("gate", "value"))
    expected = heads_of(silu(gate) * value, p, "output", 1)[0]
    np.testing.assert_allclose(apply(net, {"params": p}, x.astype(np.float32)), expected, rtol=1e-5, atol=1e-5)


def test_levels_start_as_the_identity():
    net = residual.Level(blocks=2, heads=2)
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 8)), jnp.float32)
    np.testing.assert_array_equal(jax.jit(net.init_with_output)(new_key(), x)[0], x)


SIZES = {"filters": (8, 16), "blocks": 2, "attention": (1,), "heads": 2}


@pytest.fixture(scope="module")
def coders():
    """Encoder and decoder of images of odd size, as functions with random parameters."""
    x = jnp.zeros((1, 9, 7, 3))
    encoder, decoder = nets.ResNet(outputs=(5,), **SIZES), nets.UpResNet((9, 7, 2), **SIZES)
    codes = jnp.zeros((1, 5))
    params = [randomized(jax.eval_shape(net.init, new_key(), y)) for net, y in ((encoder, x), (decoder, codes))]
    return [jax.jit(partial(net.apply, p)) for net, p in zip((encoder, decoder), params, strict=True)]


def test_examples_do_not_depend_on_each_other(coders):
    encode, decode = coders
    x = rng.normal(size=(3, 9, 7, 3)).astype(np.float32)
    z = np.asarray(encode(x))
    y = np.asarray(decode(z))
    assert (z.shape, y.shape) == ((3, 5), (3, 9, 7, 2))
    others, moved = x.copy(), z.copy()
    others[0] = moved[0] = 5.0
    changed = np.asarray(encode(others))
    np.testing.assert_allclose(changed[1:], z[1:], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.asarray(decode(moved))[1:], y[1:], rtol=1e-5, atol=1e-5)
    assert not np.allclose(changed[0], z[0], rtol=0.01)


def test_codes_may_have_leading_axes(coders):
    z = jnp.asarray(rng.normal(size=(2, 3, 5)), jnp.float32)
    each = [coders[1](codes) for codes in z]
    np.testing.assert_allclose(coders[1](z), each, rtol=1e-4, atol=1e-4)


def test_spatial_codes_have_the_size_of_the_last_level():
    x = jnp.asarray(rng.normal(size=(2, 9, 7, 3)), jnp.float32)
    encoder, decoder = nets.ResNet(channels=4, **SIZES), nets.UpResNet((9, 7, 3), **SIZES, bias=(1.0, 2.0, 3.0))
    z, _ = jax.eval_shape(encoder.init_with_output, new_key(), x)
    assert z.shape == (2, 5, 4, 4)
    y, variables = jax.jit(decoder.init_with_output)(new_key(), jnp.ones(z.shape))
    assert y.shape == x.shape
    np.testing.assert_array_equal(variables["params"]["output"]["bias"].ravel(), [1, 2, 3])


def test_remat_changes_no_gradient_and_needs_less_memory():
    needed, slopes = [], []
    x = jnp.asarray(rng.normal(size=(8, 8, 8, 8)), jnp.float32)
    for remat in (False, True):
        net = residual.Level(blocks=8, remat=remat)
        params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(0.1), jax.jit(net.init)(new_key(), x))
        step = jax.jit(jax.grad(lambda p, net=net: jnp.sum(net.apply(p, x) ** 2))).lower(params).compile()
        needed.append(step.memory_analysis().temp_size_in_bytes)
        slopes.append(step(params))
    for a, b in zip(*map(jax.tree.leaves, slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())
    assert needed[1] < 0.7 * needed[0], needed


def test_stochastic_depth_keeps_the_mean():
    """An example keeps its residual with probability 3/4, divided by 3/4; evaluation keeps it unscaled."""
    net = residual.Block(drop_path=0.25)
    x = rng.normal(size=(1, 4, 4, 8)).astype(np.float32)
    p = {"params": random_parameters(net, x)}
    residue = np.asarray(apply(net, p, x)) - x
    keys = jax.random.split(new_key(), 2000)
    found = np.asarray(apply(net, p, np.tile(x, (2000, 1, 1, 1)), keys)) - x
    ratio = (found * residue).sum((1, 2, 3)) / (residue**2).sum()
    np.testing.assert_allclose(np.minimum(abs(ratio), abs(ratio - 4 / 3)), 0, atol=1e-4)
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(1 / 3 / 2000)  # variance p / (1 - p)
