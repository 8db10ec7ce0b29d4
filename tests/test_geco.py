"""GECO: its multiplier against NumPy, and the tolerance that training reaches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import batch, new_key
from jaxae import nets
from jaxae.core.step import descend
from jaxae.core.types import Info, State
from jaxae.experiments import geco as experiment
from jaxae.likelihoods import Normal
from jaxae.variants import geco

rng = np.random.default_rng(0)
X = (rng.normal(size=(64, 1)) @ np.array([[1.0, -2.0, 0.5]]) + 0.1 * rng.normal(size=(64, 3))).astype(np.float32)
MODEL = geco.GECO(nets.MLP((), (2,)), nets.MLP((), (3,)), Normal())


def start():
    variables = dict(MODEL.init(new_key(), jnp.asarray(X)))
    return variables.pop("params"), variables


def test_multiplier_follows_the_moving_average_of_the_relative_excess():
    params, state = start()
    loss, value, average = geco.loss(MODEL, 4.0, 0.5, 0.9, 1.6), 1.0, None
    step = jax.jit(lambda state, n: loss({"params": params, **state}, batch(X).replace(step=n), new_key()))
    for number in range(4):
        assert number != 1 or 1 < value < 1.6
        terms, state = step(state, jnp.int32(number))
        excess = np.mean(np.asarray(terms["reconstruction"], np.float64)) / 4.0 - 1
        assert abs(excess) > 0.01
        np.testing.assert_allclose(terms["multiplier"], np.full(64, value), rtol=1e-5)
        np.testing.assert_allclose(terms["loss"], terms["kl"] + value * (terms["reconstruction"] - 4.0), rtol=1e-4)
        average = excess if average is None else 0.9 * average + 0.1 * excess
        value = np.clip(value * np.exp(0.5 * average), 1 / 1.6, 1.6)
    np.testing.assert_allclose(state["constraint"]["multiplier"], value, rtol=1e-5)
    assert value == 1.6  # clipped, unlike after the first step


@pytest.mark.parametrize("tolerance", [3.4, 4.2])
def test_training_reaches_the_tolerance(tolerance):
    """The error of a normal distribution of scale 1 in three dimensions is at least 1.5 log(2 pi) = 2.757."""
    params, extra = start()
    train = descend(geco.loss(MODEL, tolerance, 0.05), optax.adam(0.02))

    def step(state, key):
        new, metrics = train.step(state, batch(X).replace(step=state.step), key)
        return new._replace(step=state.step + 1), metrics

    state = State(jnp.int32(0), params, train.init(params), extra)
    keys = jax.random.split(new_key(), 3000)
    _, metrics = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(state, keys)
    assert float(metrics["reconstruction"][-1000:].mean()) == pytest.approx(tolerance, rel=0.02)
    assert 0.02 < float(metrics["multiplier"][-1]) < 50


def test_configurations_without_effect_raise():
    info = Info((3,), 10, real=True)
    with pytest.raises(ValueError, match="tolerance=0 must be positive"):
        experiment.build(experiment.Config(tolerance=0.0), info)
    with pytest.raises(ValueError, match="kl_warmup=3 has no effect"):
        experiment.build(experiment.Config(kl_warmup=3.0), info)
    with pytest.raises(ValueError, match="kl_cycles=2 has no effect"):
        experiment.build(experiment.Config(kl_cycles=2), info)
