"""The engine on toys: all that later variants will ask of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import batch, equal, new_key
from jaxae.batch import axis, mean, noise
from jaxae.step import descend, sequence
from jaxae.types import State

x = jax.random.normal(new_key(), (16, 3))
B = batch(x)


def state(transition, params, extra=None):
    return State(jnp.int32(0), params, transition.init(params), extra or {})


def quadratic(name, other=None):
    """Half the squared distance of group `name` from the mean of the data; `other` takes part in the loss."""

    def loss(params, extra, batch, key):
        target = mean(batch.x, batch)
        value = 0.5 * jnp.sum((params[name] - target) ** 2)
        if other:
            value = value + jnp.sum(params[name] * params[other])
        return value, (extra, {f"{name}_loss": value})

    return loss


def test_descend_is_gradient_descent():
    transition = descend(quadratic("a"), optax.sgd(0.1))
    params = {"a": jnp.array([1.0, 2.0, 3.0])}
    new, metrics = jax.jit(transition.step)(state(transition, params), B, new_key())
    np.testing.assert_allclose(new.params["a"], params["a"] - 0.1 * (params["a"] - x.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(metrics["a_loss"], 0.5 * np.sum((params["a"] - x.mean(0)) ** 2), rtol=1e-5)


def test_two_optimizers_on_disjoint_groups():
    """Min-max: each loss depends on both groups, but moves one; the other stays the same bits."""
    encoder = descend(quadratic("a", other="b"), optax.adam(0.1), wrt=("a",))
    critic = descend(quadratic("b", other="a"), optax.sgd(0.1), wrt=("b",))
    params = {"a": jnp.ones(3), "b": 2 * jnp.ones(3), "c": jnp.full(3, 0.1)}
    both = sequence(encoder, critic)
    first, _ = encoder.step(state(encoder, params), B, new_key())
    assert equal(first.params["b"], params["b"])
    assert equal(first.params["c"], params["c"])
    assert not equal(first.params["a"], params["a"])
    second, metrics = jax.jit(both.step)(state(both, params), B, new_key())
    np.testing.assert_allclose(second.params["a"], first.params["a"], rtol=1e-6)
    gradient = params["b"] - x.mean(0) + first.params["a"]  # the critic sees the encoder's new weights
    np.testing.assert_allclose(second.params["b"], params["b"] - 0.1 * gradient, rtol=1e-5)
    assert equal(second.params["c"], params["c"])
    assert set(metrics) == {"a_loss", "b_loss"}


def test_no_optimizer_state_and_no_gradient_for_the_others():
    taken = []

    @jax.custom_vjp
    def watch(v):
        return v

    watch.defvjp(lambda v: (v, None), lambda _, g: (taken.append(1), (g,))[1])

    def loss(params, extra, batch, key):
        value = jnp.sum(params["a"] * watch(params["b"]))
        return value, (extra, {"loss": value})

    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    only_a, everything = descend(loss, optax.adam(0.1), wrt=("a",)), descend(loss, optax.adam(0.1))
    assert jax.tree.leaves(only_a.init(params))[1:][0].shape == (2,)
    assert len(jax.tree.leaves(only_a.init(params))) == 3  # count, and two moments of one group
    only_a.step(state(only_a, params), B, new_key())
    assert not taken
    everything.step(state(everything, params), B, new_key())
    assert taken


def test_unknown_group_and_clashing_metrics():
    with pytest.raises(ValueError, match=r"no parameters named \['z'\]"):
        descend(quadratic("a"), optax.sgd(0.1), wrt=("z",)).init({"a": jnp.ones(3)})
    twice = sequence(descend(quadratic("a"), optax.sgd(0.1)), descend(quadratic("a"), optax.sgd(0.1)))
    with pytest.raises(ValueError, match=r"two transitions report \['a_loss'\]"):
        twice.step(state(twice, {"a": jnp.ones(3)}), B, new_key())


def test_each_transition_of_a_sequence_has_its_own_noise():
    seen = []

    def loss(name):
        def draw(params, extra, batch, key):
            value = jnp.sum(params["a"]) + mean(noise(key, batch, ()), batch)
            seen.append(noise(key, batch, ()))
            return value, (extra, {name: value})

        return draw

    both = sequence(descend(loss("one"), optax.sgd(0.0)), descend(loss("two"), optax.sgd(0.0)))
    both.step(state(both, {"a": jnp.ones(3)}), B, new_key())
    assert not np.any(np.asarray(seen[0]) == np.asarray(seen[1]))


def test_batch_norm_keeps_its_statistics_in_extra():
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9, axis_name=axis())
    variables = norm.init(new_key(), x)

    def loss(params, extra, batch, key):
        y, extra = norm.apply({"params": params, **extra}, batch.x, mutable=list(extra))
        value = mean(jnp.sum(y**2, axis=1), batch)
        return value, (dict(extra), {"loss": value})

    transition = descend(loss, optax.sgd(0.1))
    start = state(transition, variables["params"], {"batch_stats": variables["batch_stats"]})
    new, _ = jax.jit(transition.step)(start, B, new_key())
    np.testing.assert_allclose(new.extra["batch_stats"]["mean"], 0.1 * x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(new.extra["batch_stats"]["var"], 0.9 + 0.1 * x.var(0), rtol=1e-5)
    assert not equal(new.params, start.params)


def test_codebook_moves_by_its_average_not_by_gradient():
    """An exponential moving average of the data assigned to each of two codes, as in VQ-VAE."""
    start = jnp.array([[-1.0, 0, 0], [1.0, 0, 0]])

    def loss(params, extra, batch, key):
        book = extra["codebook"]["codes"]
        nearest = jnp.argmin(jnp.sum((batch.x[:, None] - book[None]) ** 2, -1), axis=1)
        hot = jax.nn.one_hot(nearest, 2)
        share, total = mean(hot, batch), mean(hot[:, :, None] * batch.x[:, None, :], batch)
        new = 0.9 * book + 0.1 * total / share[:, None]
        value = jnp.sum(params["a"] ** 2)
        return value, ({"codebook": {"codes": new}}, {"loss": value})

    transition = descend(loss, optax.sgd(0.1))
    new, _ = transition.step(state(transition, {"a": jnp.ones(1)}, {"codebook": {"codes": start}}), B, new_key())
    data, codes = np.asarray(x), np.asarray(start)
    nearest = ((data[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
    expected = [0.9 * codes[c] + 0.1 * data[nearest == c].mean(0) for c in (0, 1)]
    np.testing.assert_allclose(new.extra["codebook"]["codes"], expected, rtol=1e-5, atol=1e-6)


def test_k_samples_per_example():
    """E[(a + eps)^2] = a^2 + 1: with K samples the estimate's variance falls as 1 / K."""

    def loss(samples):
        def estimate(params, extra, batch, key):
            z = params["a"] + noise(key, batch, (samples,))
            value = mean(jnp.mean(z**2, axis=1), batch)
            return value, (extra, {"loss": value})

        return estimate

    def draws(samples):
        transition = descend(loss(samples), optax.sgd(0.0))
        start = state(transition, {"a": jnp.full((1, 1), 2.0)})
        step = jax.jit(lambda i: transition.step(start, B, jax.random.fold_in(new_key(), i))[1]["loss"])
        return np.asarray([step(i) for i in range(400)])

    one, many = draws(1), draws(25)
    assert abs(many.mean() - 5) < 4 * many.std() / 20
    assert 15 < one.var() / many.var() < 40


def test_masked_sequences():
    """What stands in the padding changes neither the loss nor the gradient."""
    cell = nn.RNN(nn.SimpleCell(4))
    values = jax.random.normal(new_key(), (5, 7, 2))
    mask = (jnp.arange(7)[None] < jnp.array([7, 3, 1, 5, 2])[:, None]).astype(jnp.float32)
    params = {"cell": cell.init(new_key(), values)["params"]}

    def loss(params, extra, batch, key):
        lengths = jnp.sum(batch.mask, axis=1).astype(jnp.int32)
        y = cell.apply({"params": params["cell"]}, batch.x, seq_lengths=lengths)
        per_step = jnp.sum(y**2, axis=2) * batch.mask
        value = mean(jnp.sum(per_step, axis=1), batch)
        return value, (extra, {"loss": value})

    transition = descend(loss, optax.sgd(0.1))

    def step(padding):
        return transition.step(
            state(transition, params), batch(jnp.where(mask[..., None] > 0, values, padding), mask=mask), new_key()
        )

    (plain, m1), (other, m2) = step(jnp.zeros_like(values)), step(jnp.full_like(values, 1e3))
    assert equal(plain.params, other.params)
    assert m1["loss"] == m2["loss"] > 0
    alone = [
        transition.step(state(transition, params), batch(values[i : i + 1, :n], mask=jnp.ones((1, n))), new_key())[1][
            "loss"
        ]
        for i, n in enumerate([7, 3, 1, 5, 2])
    ]
    np.testing.assert_allclose(m1["loss"], np.mean(alone), rtol=1e-5)


def test_vmap_over_seeds():
    def loss(params, extra, batch, key):
        value = mean(jnp.sum((params["a"] - batch.x - noise(key, batch, (3,))) ** 2, axis=1), batch)
        return value, (extra, {"loss": value})

    transition = descend(loss, optax.adam(0.1))
    keys = jax.random.split(new_key(), 4)
    states = [state(transition, {"a": jax.random.normal(key, (1, 3))}) for key in keys]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    new, metrics = jax.vmap(transition.step, in_axes=(0, None, 0))(together, B, keys)
    for i, (one, key) in enumerate(zip(states, keys, strict=True)):
        alone, measured = transition.step(one, B, key)
        np.testing.assert_allclose(new.params["a"][i], alone.params["a"], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"][i], measured["loss"], rtol=1e-6)
