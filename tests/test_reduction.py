"""Batches taken in parts: the same means as of the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from conftest import batch
from experiments import mirrored
from jaxae import parallel, run
from jaxae.batch import mean, noise, pooled
from jaxae.errors import InputError
from jaxae.reduction import Parts, gradient, means, taken_in
from jaxae.run import Info
from jaxae.step import descend
from jaxae.types import State

WAYS = [Parts(4, ordered=False), Parts(8, ordered=True)]


def loss(params, extra, part, key):
    """Squares of noisy values: each example has its own noise."""
    values = (params["w"] * part.x + noise(key, part, (3,))) ** 2
    metrics = {"loss": mean(values.sum(1), part), "most": mean(part.x[:, 0], part)}
    return metrics["loss"], (extra, metrics)


@pytest.mark.parametrize("parts", WAYS)
def test_gradient_and_metrics_are_those_of_the_whole(parts):
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    key, w = jax.random.key(0), {"w": jnp.float32(0.7)}
    drawn = np.asarray(noise(jax.random.clone(key), batch(x), (3,)), np.float64)
    with taken_in(parts):
        slope, (extra, metrics) = jax.jit(lambda w: gradient(lambda w, b: loss(w, {}, b, key), w, batch(x)))(w)
    assert extra == {}
    inner = 0.7 * x.astype(np.float64) + drawn
    np.testing.assert_allclose(slope["w"], (2 * inner * x).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (inner**2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["most"], x[:, 0].mean(), rtol=1e-5)


@pytest.mark.parametrize("parts", WAYS)
@pytest.mark.parametrize("real", [1, 3, 17, 32])
def test_padding_counts_in_no_part(parts, real):
    """Some parts hold padding alone, whose mean is 0 / 0."""
    x = np.random.default_rng(1).uniform(1, 2, size=(32, 2)).astype(np.float32)
    whole = batch(x, weight=np.arange(32) < real)
    with taken_in(parts):
        found = jax.jit(lambda: means(lambda part: mean(part.x, part), whole))()
    np.testing.assert_allclose(found, x[:real].mean(0), rtol=1e-5)


@pytest.mark.parametrize("parts", [None, *WAYS])
def test_parts_are_small_and_all_there(parts):
    """What a loss sees has the size of a part; each example is in one."""
    sizes = set()

    def count(part):
        sizes.add(len(part.number))
        return mean(jax.nn.one_hot(part.number, 32), part)

    with taken_in(parts):
        np.testing.assert_allclose(32 * means(count, batch(jnp.zeros((32, 1)))), np.ones(32), rtol=1e-6)
    assert sizes == {32 if parts is None else 32 // parts.number}


def test_a_term_of_the_whole_batch_is_refused():
    whole = batch(jnp.arange(8.0)[:, None])
    assert pooled(whole.x, whole) == 3.5
    with taken_in(WAYS[0]), pytest.raises(InputError, match="looks at the batch as a whole"):
        means(lambda part: jnp.abs(pooled(part.x, part)), whole)
    assert pooled(whole.x, whole) == 3.5


def test_statistics_of_batches_are_refused():
    """In the toy."""
    experiment = toy.build(toy.Config(), Info((4, 4, 1), 8))
    variables = experiment.model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    params = variables.pop("params")
    state = State(jnp.int32(0), params, experiment.transition.init(params), dict(variables))
    with taken_in(WAYS[0]), pytest.raises(InputError, match="--accumulate, --reduction: not with"):
        experiment.transition.step(state, batch(jnp.zeros((8, 4, 4, 1))), jax.random.key(1))


@pytest.mark.parametrize("more", [{"accumulate": 2}, {"reduction": "reproducible"}])
def test_that_is_said_before_anything_is_written(tmp_path, more):
    config = mirrored.Config(batch_norm=True, filters=(2,), strides=(2,), workdir=str(tmp_path / "run"), **more)
    with pytest.raises(InputError, match="batch norm"):
        run.train(config, mirrored.build, "experiments.mirrored")
    assert not (tmp_path / "run").exists()


def test_parts_last_as_long_as_they_are_asked_for():
    transition = descend(loss, optax.sgd(0.1))
    params = {"w": jnp.float32(1)}
    state = State(jnp.int32(0), params, transition.init(params), {})
    seen = []
    descend_in_parts = descend(lambda *a: (seen.append(len(a[2].x)), loss(*a))[1], optax.sgd(0.1))
    for parts in (None, WAYS[0], None):
        with taken_in(parts):
            descend_in_parts.step(state, batch(jnp.ones((8, 3))), jax.random.key(0))
    assert (seen[0], seen[-1]) == (8, 8)
    assert 2 in seen


@pytest.mark.parametrize(
    ("batch_size", "more", "line"),
    [
        (30, {"accumulate": 4}, "--batch-size 30 does not divide into 4 parts: use 28 or 32"),
        (36, {"reduction": "reproducible"}, "--batch-size 36 does not divide into 8 shards: use 32 or 40"),
        (4, {"reduction": "reproducible"}, "--batch-size 4 does not divide into 8 shards: use 8"),
        (32, {"reduction": "reproducible", "accumulate": 2}, "leave --accumulate out"),
        (32, {"reduction": "reproducible", "parallel": "jit"}, "leave --parallel jit out"),
    ],
)
def test_what_does_not_go_together(batch_size, more, line):
    parallel_mode = more.pop("parallel", "auto")
    with pytest.raises(InputError, match=line):
        parallel.plan(parallel_mode, batch_size, 1, jax.devices()[:1], **more)


def test_parts_of_several_devices():
    devices = jax.devices()[:1] * 3
    with pytest.raises(InputError, match="1, 2, 4 or 8 devices, and there are 3"):
        parallel.plan("auto", 24, 1, devices, "reproducible")
    with pytest.raises(InputError, match="does not divide over 3 devices in 2 parts each: use 18 or 24"):
        parallel.plan("auto", 21, 1, devices, "fast", 2)
    assert parallel.plan("auto", 24, 1, devices[:2], "reproducible").parts == Parts(4, ordered=True)
