import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import batch, equal, new_key
from experiments import vae as experiment
from jaxae import data, prob
from jaxae.batch import AXIS, alone
from jaxae.errors import InputError
from jaxae.step import descend, scheduled
from jaxae.types import State
from jaxae.variants import rate, vae
from test_vae import small

KL = jnp.asarray(np.random.default_rng(0).exponential(1.0, (6, 4)), jnp.float32)
SIX = batch(np.zeros((6, 2), np.float32))


def test_rates_against_numpy():
    np.testing.assert_allclose(rate.weighed(3.0)(KL, SIX), 3 * KL.sum(1), rtol=1e-6)
    np.testing.assert_allclose(rate.capacity(10.0, 4.0)(KL, SIX), 10 * np.abs(KL.sum(1) - 4), rtol=1e-5)
    free = 2 * np.maximum(1.0, KL.mean(0)).sum()
    np.testing.assert_allclose(rate.free_bits(2.0, 1.0)(KL, SIX), np.full(6, free), rtol=1e-6)


def test_free_bits_are_free():
    """No gradient for a unit that carries less, on average, than is free; the mean's for another."""
    least = float(np.sort(KL.mean(0))[1:3].mean())  # between the second and the third
    slope = jax.grad(lambda kl: rate.free_bits(1.0, least)(kl, SIX).mean())(KL)
    expected = np.where(KL.mean(0) > least, 1 / 6, 0)
    np.testing.assert_allclose(slope, np.tile(expected, (6, 1)), rtol=1e-6)
    assert 0 < (expected > 0).sum() < 4


def test_free_bits_see_the_whole_batch_and_refuse_a_part():
    whole = rate.free_bits(1.0, 1.0)(KL, SIX)
    halves = [jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), part) for part in (KL, SIX)]
    shares = jax.vmap(rate.free_bits(1.0, 1.0), axis_name=AXIS)(*halves)
    np.testing.assert_allclose(shares.ravel(), whole, rtol=1e-6)
    with alone(), pytest.raises(InputError, match="as a whole"):
        rate.free_bits(1.0, 1.0)(KL, SIX)


def test_cycles():
    """Fu et al. 2019, figure 1: up in the first half of each of four cycles, then 1."""
    weight = rate.cyclical(400.0, 4)
    at = {0: 0, 25: 0.5, 50: 1, 99: 1, 100: 0, 110: 0.2, 350: 1, 399: 1, 400: 1, 1000: 1}
    np.testing.assert_allclose([weight(jnp.int32(step)) for step in at], list(at.values()), atol=1e-6)


def test_one_cycle_that_rises_throughout_is_a_warm_up():
    ours, theirs = rate.cyclical(70.0, 1, rising=1.0), optax.linear_schedule(0.0, 1.0, 70)
    for step in (0, 1, 33, 69, 70, 71, 500):
        np.testing.assert_allclose(ours(jnp.int32(step)), theirs(step), atol=1e-6)


def test_a_rate_changes_nothing_but_its_term():
    model, params, x = small()
    _, (_, plain) = vae.loss(model)(params, {}, batch(x), new_key())
    value, (_, metrics) = vae.loss(model, rate=rate.capacity(5.0, 3.0))(params, {}, batch(x), new_key())
    for name in ("reconstruction", "kl", "bce", "mse"):
        assert equal(metrics[name], plain[name])
    kl = prob.kl_normal(model.apply({"params": params}, x, method="posterior"))
    np.testing.assert_allclose(value - metrics["reconstruction"], 5 * np.abs(kl - 3).mean(), rtol=1e-4)


def test_scheduled_transition_sees_the_step():
    """As one step after the other by hand, and with seeds."""
    model, params, x = small()

    def at(weight):
        return descend(vae.loss(model, rate=rate.weighed(weight)), optax.adam(0.1))

    transition = scheduled(lambda step: at(0.1 * step))
    state = by_hand = State(jnp.int32(0), params, transition.init(params), {})
    seen = []
    for i in range(3):
        state, metrics = transition.step(state, batch(x), jax.random.fold_in(new_key(), i))
        by_hand, _ = at(0.1 * i).step(by_hand, batch(x), jax.random.fold_in(new_key(), i))
        state, by_hand = (s._replace(step=s.step + 1) for s in (state, by_hand))
        seen.append(float(metrics["loss"] - metrics["reconstruction"]) / float(metrics["kl"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, by_hand.params)
    np.testing.assert_allclose(seen, [0, 0.1, 0.2], atol=1e-5)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    keys = jax.random.split(new_key(), 2)
    seeds, _ = jax.vmap(transition.step, in_axes=(0, None, 0))(two, batch(x), keys)
    one, _ = transition.step(state, batch(x), jax.random.split(new_key(), 2)[1])
    np.testing.assert_allclose(
        *(jax.tree.leaves(s.params["encoder"])[0] for s in (jax.tree.map(lambda a: a[1], seeds), one)), rtol=1e-4
    )


INFO = data.Info((3, 3, 1), 100)


@pytest.mark.parametrize(
    ("fields", "step", "expected"),
    [
        ({}, 0, lambda kl: kl),
        ({"beta": 3.0}, 0, lambda kl: 3 * kl),
        ({"beta": 3.0, "warmup": 2.0}, 10, lambda kl: 1.5 * kl),
        ({"beta": 3.0, "warmup": 2.0, "cycles": 2}, 15, lambda kl: 3 * kl),
        ({"beta": 3.0, "warmup": 2.0, "cycles": 2}, 12, lambda kl: 1.2 * kl),
        ({"beta": 9.0, "capacity": 8.0, "warmup": 2.0}, 5, lambda kl: 9 * np.abs(kl - 2)),
        ({"free_bits": 50.0}, 3, lambda kl: np.full_like(kl, 2 * 50)),
    ],
)
def test_the_flags_of_an_experiment(fields, step, expected):
    """10 steps an epoch."""
    config = dataclasses.replace(experiment.Config(batch_size=10, hidden=(5,)), **fields)
    built = experiment.build(config, INFO)
    x = jax.random.uniform(new_key(), (10, 3, 3, 1))
    params = built.model.init(new_key(), x)["params"]
    state = State(jnp.int32(step), params, built.transition.init(params), {})
    _, metrics = built.transition.step(state, batch(x), new_key())
    kl = prob.kl_normal(built.model.apply({"params": params}, x, method="posterior"))
    np.testing.assert_allclose(metrics["loss"] - metrics["reconstruction"], expected(kl).mean(), rtol=1e-4, atol=1e-5)
    _, (_, tested) = built.evaluate(params, {}, batch(x), new_key())
    np.testing.assert_allclose(tested["loss"], tested["reconstruction"] + tested["kl"], rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"capacity": 1.0, "free_bits": 1.0}, "take one of the two"),
        ({"cycles": 3}, "--cycles 3: give the epochs that they divide as --warmup"),
    ],
)
def test_flags_that_do_not_go_together(fields, says):
    with pytest.raises(InputError, match=says):
        experiment.build(experiment.Config(**fields), INFO)
