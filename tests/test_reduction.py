"""Gradient accumulation gives the means of the global batch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
import toy
from conftest import batch
from jaxae import data, run
from jaxae.core.batch import AXIS, Layout
from jaxae.core.reduction import gradient, sums
from jaxae.devices.plan import bytes_per_device, plan, state_shardings
from jaxae.errors import InputError
from jaxae.experiments import mirrored, vampprior
from jaxae.run import Info
from jaxae.training.start import start

WHOLE, KEY = Layout(), jax.random.key(0)
WAYS = [Layout(microbatches=4), Layout(microbatches=8, ordered=True)]


def loss(params, batch, key):
    """Squares of noisy values, with a scheduled weight: each example has its own noise."""
    values = (params["w"] * batch.x + batch.noise(key, (3,))) ** 2
    weight = batch.scheduled(optax.linear_schedule(0.0, 1.0, 10))
    return {"loss": weight * values.sum(1), "first": batch.x[:, 0]}, {}


@pytest.mark.parametrize("layout", [WHOLE, *WAYS])
def test_gradient_and_metrics_of_microbatches_are_those_of_the_global_batch(layout):
    x = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    key, w, weight = jax.random.key(0), {"w": jnp.float32(0.7)}, np.arange(32) % 5 > 0
    noise = np.asarray(batch(x).noise(jax.random.clone(key), (3,)), np.float64)
    here = batch(x, weight=weight, layout=layout).replace(step=jnp.int32(7))
    slope, metrics, updates = jax.jit(lambda w: gradient(lambda w, b: loss(w, b, key), w, here))(w)
    assert updates == {}
    inner, real = (0.7 * x.astype(np.float64) + noise)[weight], x[weight]
    np.testing.assert_allclose(slope["w"], 0.7 * (2 * inner * real).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.7 * (inner**2).sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["first"], real[:, 0].mean(), rtol=1e-5)


@pytest.mark.parametrize("layout", [WHOLE, *WAYS])
@pytest.mark.parametrize("real", [1, 3, 17, 32])
def test_padding_is_excluded_from_every_microbatch(layout, real):
    """Some microbatches contain padding only, whose mean is 0 / 0."""
    x = np.random.default_rng(1).uniform(1, 2, size=(32, 2)).astype(np.float32)
    padded = batch(x, weight=np.arange(32) < real, training=False, layout=layout)

    def terms(variables, batch, key):
        return {"loss": variables["params"]["w"] * batch.x[:, 0], "second": batch.x[:, 1]}, {"not": "used"}

    found = jax.jit(lambda: sums(terms, {"params": {"w": jnp.float32(3)}}, padded, KEY))()
    np.testing.assert_allclose(found["loss"], 3 * x[:real, 0].sum(), rtol=1e-5)
    np.testing.assert_allclose(found["second"], x[:real, 1].sum(), rtol=1e-5)


@pytest.mark.parametrize("layout", [WHOLE, *WAYS])
def test_microbatches_have_their_size_and_hold_every_example_once(layout):
    """This holds for every field of the batch."""
    sizes = set()
    mask = (jnp.arange(5)[None] < 1 + jnp.arange(32)[:, None] % 5).astype(jnp.float32)
    whole = batch(10.0 * jnp.arange(32)[:, None], mask=mask, layout=layout).replace(
        context=2.0 * jnp.arange(32)[:, None], y=3 * jnp.arange(32)
    )

    def count(variables, batch, key):
        sizes.add(len(batch.index))
        assert batch.layout == (Layout(partial=True) if layout.split else layout)
        assert batch.training
        belong = (batch.x[:, 0] == 10 * batch.index) & (batch.context[:, 0] == 2 * batch.index)
        belong &= (batch.y == 3 * batch.index) & (batch.observed.sum(1) == 1 + batch.index % 5)
        hot = jax.nn.one_hot(batch.index, 32)
        return {"loss": belong.astype(jnp.float32), **{f"example {i}": hot[:, i] for i in range(32)}}, {}

    found = sums(count, {"params": {}}, whole, KEY)
    assert found == {"loss": 32, **{f"example {i}": 1 for i in range(32)}}
    assert sizes == {32 // layout.microbatches}


@pytest.mark.parametrize("layout", WAYS)
def test_term_of_the_global_batch_raises_in_microbatches(layout):
    def terms(variables, batch, key):
        return {"loss": batch.repeat(jnp.abs(batch.mean(batch.x))[0])}, {}

    x = jnp.arange(-4.0, 12.0)[:, None]
    assert sums(terms, {"params": {}}, batch(x), KEY) == {"loss": 16 * 3.5}
    with pytest.raises(ValueError, match="Batch.mean needs the global batch"):
        sums(terms, {"params": {}}, batch(x, layout=layout), KEY)
    with pytest.raises(ValueError, match="Batch.mean needs the global batch"):
        gradient(lambda params, b: terms(params, b, KEY), {}, batch(x, layout=layout))


@pytest.mark.parametrize("layout", WAYS)
def test_statistics_of_batches_raise_in_microbatches(layout):
    def terms(params, batch):
        return {"loss": params["w"] * batch.x[:, 0]}, {"batch_stats": {"mean": batch.x.mean(0)}}

    x = jnp.arange(8.0)[:, None]
    assert gradient(terms, {"w": 1.0}, batch(x))[2] == {"batch_stats": {"mean": 3.5}}
    with pytest.raises(ValueError, match="a microbatch cannot update statistics of the global batch"):
        gradient(terms, {"w": 1.0}, batch(x, layout=layout))


@pytest.mark.parametrize("layout", WAYS)
def test_run_that_needs_the_global_batch_raises_before_it_starts(layout):
    """The toy has batch norm, and a penalty on means over the batch."""
    info = Info((4, 4, 1), 8)
    experiment = toy.build(toy.Config(), info)
    assert start(experiment, info, 8, range(1))[0].step == 0
    with pytest.raises(ValueError, match="microbatch"):
        start(experiment, info, 8, range(1), layout)


@pytest.mark.parametrize("more", [{"accumulate": 2}, {"reduction": "reproducible"}])
def test_batch_norm_in_microbatches_raises_before_anything_is_written(tmp_path, more):
    config = mirrored.Config(batch_norm=True, filters=(2,), strides=(2,), workdir=str(tmp_path / "run"), **more)
    with pytest.raises(InputError, match="batch norm"):
        run.train(config, mirrored.build, "mirrored")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("batch_size", "more", "line"),
    [
        (30, {"accumulate": 4}, "batch_size=30 is not divisible by 4 microbatches; use 28 or 32"),
        (36, {"reduction": "reproducible"}, "batch_size=36 is not divisible by 8 shards; use 32 or 40"),
        (4, {"reduction": "reproducible"}, "batch_size=4 is not divisible by 8 shards; use 8"),
        (32, {"reduction": "reproducible", "accumulate": 2}, "omit accumulate=2"),
        (32, {"reduction": "reproducible", "parallel": "jit"}, "omit parallel=jit"),
        (32, {"reduction": "reproducible", "parallel": "fsdp"}, "omit parallel=fsdp"),
        (32, {"parallel": "pmpa"}, "parallel=pmpa is unknown; use one of auto, pmap, jit, fsdp"),
        (32, {"reduction": "exact"}, "reduction=exact is unknown; use one of fast, reproducible"),
    ],
)
def test_indivisible_batch_and_conflicting_arguments_raise(batch_size, more, line):
    with pytest.raises(ValueError, match=line):
        plan(**{"parallel": "auto", **more}, batch_size=batch_size, seeds=1, devices=jax.devices()[:1])


def test_plan_divides_microbatches_among_devices():
    devices = jax.devices()[:1] * 3
    with pytest.raises(ValueError, match="needs 1, 2, 4 or 8 devices, not 3"):
        plan("auto", 24, 1, devices, "reproducible")
    with pytest.raises(ValueError, match="batch_size=21 is not divisible by 3 devices x 2 microbatches; use 18"):
        plan("auto", 21, 1, devices, "fast", 2)
    assert plan("auto", 24, 1, devices[:2], "reproducible").layout == Layout(AXIS, 4, ordered=True)
    assert plan("auto", 24, 1, devices[:2], "fast", 3).layout == Layout(AXIS, 3)
    assert plan("jit", 24, 1, devices[:2], "fast", 3).layout == Layout(None, 3)
    assert plan("auto", 24, 1, devices[:1]).layout == Layout()


def test_state_is_split_along_its_longest_divisible_axis():
    split = plan("fsdp", 24, 2, jax.devices()[:1] * 8)
    assert (split.mode, split.layout) == ("fsdp", Layout())
    arrays = {(64, 64): (64, 8), (128, 64): (16, 64), (3, 3, 32, 12): (3, 3, 4, 12), (2, 784, 500): (2, 98, 500)}
    arrays |= {(1023,): (1023,), (1024,): (128,), (8, 8): (8, 8), (1025, 3): (1025, 3), (): ()}
    for shape, shard in arrays.items():
        state = {"w": jax.ShapeDtypeStruct(shape, jnp.float32)}
        assert state_shardings(state, split, True)["w"].shard_shape(shape) == shard
        assert bytes_per_device(state, split, True) == 4 * math.prod(shard)
        assert bytes_per_device(state, split._replace(mode="jit"), True) == 4 * math.prod(shape)
    seeds = plan("fsdp", 24, 8, jax.devices()[:1] * 8)  # each device trains a seed
    assert seeds.mode == "seeds"
    assert bytes_per_device(jax.ShapeDtypeStruct((8, 5), jnp.float32), seeds, True) == 20


@pytest.mark.slow
def test_reproducible_evaluation_of_the_vampprior_equals_that_of_its_model():
    digits = data.load("digits")
    few = [data.Split(split.x[:n], split.y[:n]) for split, n in zip(digits[:2], (64, 40), strict=True)]
    part = data.Dataset(*few, digits.classes)
    experiment = vampprior.build(vampprior.Config(batch_size=32), part.info)
    reproducible = plan("auto", 32, 1, reduction="reproducible")
    *_, end = jaxae.iterate(experiment, part, epochs=1, batch_size=32, plan=reproducible)
    found = jaxae.Trained(experiment, end.state, part.shape).evaluate(part.test.x)
    assert {name: float(value) for name, value in end.test.items()} == pytest.approx(found, rel=1e-4)
