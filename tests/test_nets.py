import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae import nets, ops


def test_mlp_against_numpy():
    net = nets.MLP((7, 5), (2, 3), axes=2)
    x = jax.random.normal(jax.random.key(1), (4, 3, 2))
    params = net.init(jax.random.key(0), x)
    h = x.reshape(4, 6)
    layers = [params["params"][f"Dense_{i}"] for i in range(3)]
    for i, layer in enumerate(layers):
        h = h @ layer["kernel"] + layer["bias"][None]
        h = np.maximum(h, 0) if i < 2 else h
    np.testing.assert_allclose(net.apply(params, x), h.reshape(4, 2, 3), rtol=1e-5, atol=1e-6)


def test_mlp_takes_leading_axes():
    net = nets.MLP((7,), (5,))
    x = jax.random.normal(jax.random.key(1), (4, 3, 2))
    params = net.init(jax.random.key(0), x[0])
    each = jnp.stack([net.apply(params, row) for row in x])
    np.testing.assert_allclose(net.apply(params, x), each, rtol=1e-6)


def test_mlp_starts_from_glorot_uniform():
    kernel = nets.MLP((), (200,)).init(jax.random.key(0), jnp.zeros((1, 300)))["params"]["Dense_0"]["kernel"]
    bound = np.sqrt(6 / 500)
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / np.sqrt(3), rtol=0.02)


def test_mlp_activation_is_not_applied_last():
    net = nets.MLP((), (1,), activation=nn.sigmoid)
    params = net.init(jax.random.key(0), jnp.ones((1, 1)))
    np.testing.assert_allclose(net.apply(params, jnp.full((1, 1), 9.0)), 9 * params["params"]["Dense_0"]["kernel"])


def test_mixed_dot_multiplies_bfloat16_and_adds_float32():
    a, b = jax.random.normal(jax.random.key(0), (5, 6, 300)), jax.random.normal(jax.random.key(1), (300, 4))
    exact_a, exact_b = (np.asarray(v.astype(jnp.bfloat16), np.float64) for v in (a, b))
    out = ops.mixed_dot(a, b)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, exact_a @ exact_b, rtol=1e-4, atol=1e-4)
    assert np.abs(out - np.asarray(a) @ np.asarray(b)).max() > 1e-3  # it did round the operands


def test_mixed_dot_gradient():
    a, b = jax.random.normal(jax.random.key(0), (5, 6, 30)), jax.random.normal(jax.random.key(1), (30, 4))
    g = jax.random.normal(jax.random.key(2), (5, 6, 4))
    a, b, g = (v.astype(jnp.bfloat16).astype(jnp.float32) for v in (a, b, g))  # then nothing is rounded
    _, ours = jax.vjp(ops.mixed_dot, a, b)
    _, theirs = jax.vjp(lambda a, b: jnp.dot(a, b, precision="highest"), a, b)
    for mine, exact in zip(ours(g), theirs(g), strict=True):
        np.testing.assert_allclose(mine, exact, rtol=1e-5, atol=1e-5)


def test_mixed_dot_refuses_other_contractions():
    with pytest.raises(ValueError, match="last axis by the first"):
        ops.dot_general("mixed")(jnp.ones((2, 3)), jnp.ones((2, 3)), (((1,), (1,)), ((), ())))


def test_mlp_in_mixed_precision():
    x = jax.random.normal(jax.random.key(0), (8, 20))
    full, mixed = nets.MLP((30,), (3,)), nets.MLP((30,), (3,), precision="mixed")
    params = full.init(jax.random.key(1), x)
    assert jax.tree.all(jax.tree.map(lambda p: p.dtype == jnp.float32, mixed.init(jax.random.key(1), x)))
    difference = jnp.abs(full.apply(params, x) - mixed.apply(params, x)).max()
    assert 0 < difference < 0.05
