"""Transitions, on losses with known gradients."""

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
    """Half the squared distance of group `name` from the mean of the data, plus its dot product with group `other`."""

    def loss(variables, batch, key):
        params = variables["params"]
        value = 0.5 * jnp.sum((params[name] - batch.mean(batch.x)) ** 2)
        if other:
            value = value + jnp.sum(params[name] * params[other])
        return {"loss": batch.repeat(value)}, {}

    return loss


def test_descend_takes_the_weighted_mean_of_a_loss_per_example():
    """Examples of weight 0 affect neither terms nor gradient."""
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
    """Each loss depends on both groups and updates one; the other stays equal bit for bit."""
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
    gradient = params["b"] - x.mean(0) + first.params["a"]  # the critic's gradient is at the encoder's new weights
    np.testing.assert_allclose(second.params["b"], params["b"] - 0.1 * gradient, rtol=1e-5)
    assert equal(second.params["c"], params["c"])
    assert set(metrics) == {"loss", "critic"}


def test_other_groups_have_no_optimizer_state_and_no_gradient():
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
    assert len(jax.tree.leaves(only_a.init(params))) == 3  # step count, and two moments of one group
    only_a.step(state(only_a, params), B, new_key())
    assert not taken
    everything.step(state(everything, params), B, new_key())
    assert taken


def test_unknown_group_raises():
    with pytest.raises(ValueError, match=r"no parameters named \['z'\]; there are \['a'\]"):
        descend(quadratic("a"), optax.sgd(0.1), wrt=("z",)).init({"a": jnp.ones(3)})


def test_minimised_term_is_reported_under_its_name():
    def loss(variables, batch, key):
        return {"loss": jnp.sum((variables["params"]["a"][None] - batch.x) ** 2, axis=1), "count": batch.weight}, {}

    params = {"a": jnp.ones(3)}
    plain, named = descend(loss, optax.sgd(0.1)), descend(loss, optax.sgd(0.1), name="distance")
    (one, first), (other, second) = (t.step(state(t, params), B, new_key()) for t in (plain, named))
    assert equal(one, other)
    assert not equal(one.params, params)
    assert equal(second, {"distance": first["loss"], "count": first["count"]})


def test_name_of_another_term_raises():
    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"])), "distance": batch.weight}, {}

    transition = descend(loss, optax.sgd(0.1), name="distance")
    with pytest.raises(ValueError, match="name=distance: the loss already has a term of this name"):
        transition.step(state(transition, {"a": jnp.ones(3)}), B, new_key())


def test_two_metrics_of_the_same_name_raise():
    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"])), "count": batch.weight}, {}

    def step(*transitions):
        both = alternate(*transitions)
        return both.step(state(both, {"a": jnp.ones(3)}), B, new_key())

    plain = descend(quadratic("a"), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"two transitions report \['loss'\]; give their metrics different names"):
        step(plain, descend(quadratic("a"), optax.sgd(0.1)))
    other = descend(quadratic("a"), optax.sgd(0.1), name="other")
    with pytest.raises(ValueError, match=r"two transitions report \['other'\]"):
        step(plain, other, other)
    with pytest.raises(ValueError, match=r"two transitions report \['count'\]"):  # a term, not the minimised one
        step(descend(loss, optax.sgd(0.1)), descend(loss, optax.sgd(0.1), name="other"))
    with pytest.raises(ValueError, match=r"two transitions report \['count'\]"):  # the name of a term of the other loss
        step(descend(loss, optax.sgd(0.1)), descend(quadratic("a"), optax.sgd(0.1), name="count"))
    assert set(step(plain, other)[1]) == {"loss", "other"}


@pytest.mark.parametrize("shape", [(), (1,), (16, 1), (15,)])
def test_term_that_is_not_one_number_per_example_raises(shape):
    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"])), "odd": jnp.zeros(shape)}, {}

    transition = descend(loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"the term odd has shape \(.*\), not one number for each of 16 examples"):
        transition.step(state(transition, {"a": jnp.ones(3)}), B, new_key())


def test_terms_without_a_loss_raise():
    def loss(variables, batch, key):
        return {"error": batch.repeat(jnp.sum(variables["params"]["a"]))}, {}

    for transition in (descend(loss, optax.sgd(0.1)), descend(loss, optax.sgd(0.1), name="error")):
        with pytest.raises(ValueError, match=r"returns no term named loss, only \['error'\]"):
            transition.step(state(transition, {"a": jnp.ones(3)}), B, new_key())


def test_alternating_transitions_have_independent_noise():
    seen = []

    def loss(variables, batch, key):
        noise = batch.noise(key, ())
        seen.append(noise)
        return {"loss": noise + jnp.sum(variables["params"]["a"])}, {}

    both = alternate(descend(loss, optax.sgd(0.0)), descend(loss, optax.sgd(0.0), name="other"))
    both.step(state(both, {"a": jnp.ones(3)}), B, new_key())
    assert not np.any(np.asarray(seen[0]) == np.asarray(seen[1]))


def test_updates_replace_their_collections_and_keep_the_others():
    """No gradient passes through the updates."""

    def loss(variables, batch, key):
        new = 0.9 * variables["averages"]["x"] + 0.1 * batch.mean(batch.x) * variables["params"]["a"]
        return {"loss": batch.repeat(jnp.sum(variables["params"]["a"] ** 2))}, {"averages": {"x": new}}

    transition = descend(loss, optax.sgd(0.1))
    extra = {"averages": {"x": jnp.ones(3)}, "other": {"count": jnp.full(2, 0.1)}}
    new, _ = transition.step(state(transition, {"a": jnp.full(3, 2.0)}, extra), B, new_key())
    np.testing.assert_allclose(new.extra["averages"]["x"], 0.9 + 0.1 * np.asarray(x).mean(0) * 2, rtol=1e-5)
    assert equal(new.extra["other"], extra["other"])
    np.testing.assert_allclose(new.params["a"], np.full(3, 1.6), rtol=1e-6)
