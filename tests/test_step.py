"""Transitions on toy problems."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import batch, equal, new_key
from jaxae.core.step import alternate, descend
from jaxae.core.types import State

x = jax.random.normal(new_key(), (16, 3))
B = batch(x)


def state(transition, params, extra=None):
    return State(jnp.int32(0), params, transition.init(params), extra or {})


def quadratic(name, other=None):
    """Half the squared distance of group `name` from the mean of the data; `other` takes part in the loss."""

    def loss(variables, batch, key):
        params = variables["params"]
        value = 0.5 * jnp.sum((params[name] - batch.mean(batch.x)) ** 2)
        if other:
            value = value + jnp.sum(params[name] * params[other])
        return {"loss": batch.repeat(value)}, {}

    return loss


def test_descend_is_gradient_descent():
    transition = descend(quadratic("a"), optax.sgd(0.1))
    params = {"a": jnp.array([1.0, 2.0, 3.0])}
    new, metrics = jax.jit(transition.step)(state(transition, params), B, new_key())
    np.testing.assert_allclose(new.params["a"], params["a"] - 0.1 * (params["a"] - x.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5 * np.sum((params["a"] - x.mean(0)) ** 2), rtol=1e-5)
    assert set(metrics) == {"loss"}


def test_descend_takes_the_weighted_mean_of_a_loss_per_example():
    """Examples of weight 0 count in no term and in no gradient."""
    weight = np.arange(16) % 3 > 0

    def loss(variables, batch, key):
        square = jnp.sum((variables["params"]["a"][None] - batch.x) ** 2, axis=1)
        return {"loss": 0.7 * square, "first": batch.x[:, 0]}, {}

    transition = descend(loss, optax.sgd(0.1))
    params = {"a": jnp.array([1.0, 2.0, 3.0])}
    new, metrics = transition.step(state(transition, params), batch(x, weight=weight), new_key())
    real, a = np.asarray(x, np.float64)[weight], np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(new.params["a"], a - 0.1 * 2 * 0.7 * (a - real).mean(0), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.7 * ((a - real) ** 2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["first"], real[:, 0].mean(), rtol=1e-5)


def test_alternating_optimizers_update_disjoint_groups():
    """Min-max: each loss depends on both groups, but moves one; the other stays the same bits."""
    encoder = descend(quadratic("a", other="b"), optax.adam(0.1), wrt=("a",))
    critic = descend(quadratic("b", other="a"), optax.sgd(0.1), wrt=("b",), name="critic")
    params = {"a": jnp.ones(3), "b": 2 * jnp.ones(3), "c": jnp.full(3, 0.1)}
    both = alternate(encoder, critic)
    first, _ = encoder.step(state(encoder, params), B, new_key())
    assert equal(first.params["b"], params["b"])
    assert equal(first.params["c"], params["c"])
    assert not equal(first.params["a"], params["a"])
    second, metrics = jax.jit(both.step)(state(both, params), B, new_key())
    np.testing.assert_allclose(second.params["a"], first.params["a"], rtol=1e-6)
    gradient = params["b"] - x.mean(0) + first.params["a"]  # the critic sees the encoder's new weights
    np.testing.assert_allclose(second.params["b"], params["b"] - 0.1 * gradient, rtol=1e-5)
    assert equal(second.params["c"], params["c"])
    assert set(metrics) == {"loss", "critic"}


def test_no_optimizer_state_and_no_gradient_for_the_others():
    taken = []

    @jax.custom_vjp
    def watch(v):
        return v

    watch.defvjp(lambda v: (v, None), lambda _, g: (taken.append(1), (g,))[1])

    def loss(variables, batch, key):
        params = variables["params"]
        return {"loss": batch.repeat(jnp.sum(params["a"] * watch(params["b"])))}, {}

    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    only_a, everything = descend(loss, optax.adam(0.1), wrt=("a",)), descend(loss, optax.adam(0.1))
    assert jax.tree.leaves(only_a.init(params))[1:][0].shape == (2,)
    assert len(jax.tree.leaves(only_a.init(params))) == 3  # count, and two moments of one group
    only_a.step(state(only_a, params), B, new_key())
    assert not taken
    everything.step(state(everything, params), B, new_key())
    assert taken


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match=r"no parameters named \['z'\]; there are \['a'\]"):
        descend(quadratic("a"), optax.sgd(0.1), wrt=("z",)).init({"a": jnp.ones(3)})


def test_the_minimised_term_is_reported_under_its_name():
    def loss(variables, batch, key):
        return {"loss": jnp.sum((variables["params"]["a"][None] - batch.x) ** 2, axis=1), "count": batch.weight}, {}

    params = {"a": jnp.ones(3)}
    plain, named = descend(loss, optax.sgd(0.1)), descend(loss, optax.sgd(0.1), name="distance")
    (one, first), (other, second) = (t.step(state(t, params), B, new_key()) for t in (plain, named))
    assert equal(one, other)
    assert not equal(one.params, params)
    assert equal(second, {"distance": first["loss"], "count": first["count"]})


def test_a_name_that_another_term_has_is_refused():
    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"])), "distance": batch.weight}, {}

    transition = descend(loss, optax.sgd(0.1), name="distance")
    with pytest.raises(ValueError, match="name=distance: the loss already has a term of this name"):
        transition.step(state(transition, {"a": jnp.ones(3)}), B, new_key())


def test_two_metrics_of_the_same_name_are_refused():
    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"])), "count": batch.weight}, {}

    def step(*transitions):
        both = alternate(*transitions)
        return both.step(state(both, {"a": jnp.ones(3)}), B, new_key())

    plain = descend(quadratic("a"), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"two transitions report \['loss'\]: give their metrics different names"):
        step(plain, descend(quadratic("a"), optax.sgd(0.1)))
    other = descend(quadratic("a"), optax.sgd(0.1), name="other")
    with pytest.raises(ValueError, match=r"two transitions report \['other'\]"):
        step(plain, other, other)
    with pytest.raises(ValueError, match=r"two transitions report \['count'\]"):  # a term, not what is minimised
        step(descend(loss, optax.sgd(0.1)), descend(loss, optax.sgd(0.1), name="other"))
    with pytest.raises(ValueError, match=r"two transitions report \['count'\]"):  # the name of a term of another one
        step(descend(loss, optax.sgd(0.1)), descend(quadratic("a"), optax.sgd(0.1), name="count"))
    assert set(step(plain, other)[1]) == {"loss", "other"}


@pytest.mark.parametrize("shape", [(), (1,), (16, 1), (15,)])
def test_a_term_that_is_not_one_number_per_example_is_refused(shape):
    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"])), "odd": jnp.zeros(shape)}, {}

    transition = descend(loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"the term odd has shape \(.*\), not one number for each of 16 examples"):
        transition.step(state(transition, {"a": jnp.ones(3)}), B, new_key())


def test_terms_without_a_loss_are_refused():
    def loss(variables, batch, key):
        return {"error": batch.repeat(jnp.sum(variables["params"]["a"]))}, {}

    for transition in (descend(loss, optax.sgd(0.1)), descend(loss, optax.sgd(0.1), name="error")):
        with pytest.raises(ValueError, match=r"no term is named loss, only \['error'\]"):
            transition.step(state(transition, {"a": jnp.ones(3)}), B, new_key())


def test_alternating_transitions_have_their_own_noise():
    seen = []

    def loss(variables, batch, key):
        noise = batch.noise(key, ())
        seen.append(noise)
        return {"loss": noise + jnp.sum(variables["params"]["a"])}, {}

    both = alternate(descend(loss, optax.sgd(0.0)), descend(loss, optax.sgd(0.0), name="other"))
    both.step(state(both, {"a": jnp.ones(3)}), B, new_key())
    assert not np.any(np.asarray(seen[0]) == np.asarray(seen[1]))


def test_batch_norm_keeps_its_statistics_in_extra():
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    variables = norm.init(new_key(), x)

    def loss(variables, batch, key):
        y, updates = norm.apply(variables, batch.x, mutable=["batch_stats"])
        return {"loss": jnp.sum(y**2, axis=1)}, dict(updates)

    transition = descend(loss, optax.sgd(0.1))
    start = state(transition, variables["params"], {"batch_stats": variables["batch_stats"]})
    new, _ = jax.jit(transition.step)(start, B, new_key())
    np.testing.assert_allclose(new.extra["batch_stats"]["mean"], 0.1 * x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(new.extra["batch_stats"]["var"], 0.9 + 0.1 * x.var(0), rtol=1e-5)
    assert not equal(new.params, start.params)


def test_codebook_moves_by_its_average_not_by_gradient():
    """An exponential moving average of the data assigned to each of two codes, as in VQ-VAE."""
    start = jnp.array([[-1.0, 0, 0], [1.0, 0, 0]])

    def loss(variables, batch, key):
        book = variables["codebook"]["codes"]
        nearest = jnp.argmin(jnp.sum((batch.x[:, None] - book[None]) ** 2, -1), axis=1)
        hot = jax.nn.one_hot(nearest, 2)
        share, total = batch.mean(hot), batch.mean(hot[:, :, None] * batch.x[:, None, :])
        new = 0.9 * book + 0.1 * total / share[:, None]
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"] ** 2))}, {"codebook": {"codes": new}}

    transition = descend(loss, optax.sgd(0.1))
    extra = {"codebook": {"codes": start}, "other": {"count": jnp.full(2, 0.1)}}
    new, _ = transition.step(state(transition, {"a": jnp.ones(1)}, extra), B, new_key())
    data, codes = np.asarray(x), np.asarray(start)
    nearest = ((data[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
    expected = [0.9 * codes[c] + 0.1 * data[nearest == c].mean(0) for c in (0, 1)]
    np.testing.assert_allclose(new.extra["codebook"]["codes"], expected, rtol=1e-5, atol=1e-6)
    assert equal(new.extra["other"], extra["other"])  # a collection that the loss does not update stays


def test_the_variance_of_k_samples_falls_as_one_over_k():
    """E[(a + eps)^2] = a^2 + 1: with K samples the estimate's variance falls as 1 / K."""

    def loss(samples):
        def estimate(variables, batch, key):
            z = variables["params"]["a"] + batch.noise(key, (samples,))
            return {"loss": jnp.mean(z**2, axis=1)}, {}

        return estimate

    def draws(samples):
        transition = descend(loss(samples), optax.sgd(0.0))
        start = state(transition, {"a": jnp.full((1, 1), 2.0)})
        step = jax.jit(lambda i: transition.step(start, B, jax.random.fold_in(new_key(), i))[1]["loss"])
        return np.asarray([step(i) for i in range(400)])

    one, many = draws(1), draws(25)
    assert abs(many.mean() - 5) < 4 * many.std() / 20
    assert 15 < one.var() / many.var() < 40


def test_padding_of_sequences_changes_neither_loss_nor_gradient():
    cell = nn.RNN(nn.SimpleCell(4))
    values = jax.random.normal(new_key(), (5, 7, 2))
    mask = (jnp.arange(7)[None] < jnp.array([7, 3, 1, 5, 2])[:, None]).astype(jnp.float32)
    params = {"cell": cell.init(new_key(), values)["params"]}

    def loss(variables, batch, key):
        lengths = jnp.sum(batch.observed, axis=1).astype(jnp.int32)
        y = cell.apply({"params": variables["params"]["cell"]}, batch.x, seq_lengths=lengths)
        return {"loss": jnp.sum(jnp.sum(y**2, axis=2) * batch.observed, axis=1)}, {}

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


def test_vmap_over_seeds_gives_the_step_of_each_seed():
    def loss(variables, batch, key):
        off = variables["params"]["a"] - batch.x - batch.noise(key, (3,))
        return {"loss": jnp.sum(off**2, axis=1)}, {}

    transition = descend(loss, optax.adam(0.1))
    keys = jax.random.split(new_key(), 4)
    states = [state(transition, {"a": jax.random.normal(key, (1, 3))}) for key in keys]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    new, metrics = jax.vmap(transition.step, in_axes=(0, None, 0))(together, B, keys)
    for i, (one, key) in enumerate(zip(states, keys, strict=True)):
        alone, measured = transition.step(one, B, key)
        np.testing.assert_allclose(new.params["a"][i], alone.params["a"], rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"][i], measured["loss"], rtol=1e-6)
