"""Endless examples: generated from their numbers, on any number of devices, and resumed bit for bit."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from conftest import equal
from jaxae import data
from jaxae.core.batch import Layout
from jaxae.core.step import descend
from jaxae.devices import plan as plans
from jaxae.errors import Diverged, InputError
from jaxae.training import epoch
from jaxae.training.feed import feed
from jaxae.training.iterate import iterate, seeded
from jaxae.training.start import DATA, TRAIN, keys, start

BASIS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


def draw(key, basis):
    return jax.random.normal(key, (3,)) @ basis


def dataset(train=20, **options):
    return data.generated(draw, (4,), train=train, test=10, arrays=BASIS, **options)


class Mean(nn.Module):
    """The mean of the examples."""

    def setup(self):
        self.mean = self.param("mean", nn.initializers.zeros, (4,))

    def __call__(self, x):
        return self.encode(x)

    def encode(self, x):
        return x - self.mean[None]

    def decode(self, z):
        return z


def loss(variables, batch, key):
    off = batch.x - variables["params"]["mean"][None] + 0.1 * batch.noise(key, (4,))
    return {"loss": jnp.sum(off**2, axis=1), "sum": jnp.sum(batch.x, axis=1)}, {}


EXPERIMENT = jaxae.Experiment(Mean(), descend(loss, optax.sgd(0.05)), loss)
OPTIONS = {"epochs": 3, "batch_size": 8}


def reference(seed, number):
    key = jax.random.fold_in(keys(range(seed, seed + 1), DATA), number)
    return np.asarray(jax.random.normal(key, (3,)) @ BASIS)


def test_every_step_generates_new_examples_from_their_numbers():
    """Epochs of 20 examples in batches of 8 end after steps 3, 5 and 8."""
    steps = [now for now in iterate(EXPERIMENT, dataset(), every=1, seed=5, **OPTIONS) if now.test is None]
    assert [now.step for now in steps if now.done] == [3, 5, 8]
    examples = np.array([reference(5, number) for number in range(64)])
    assert len(np.unique(examples.round(4), axis=0)) == 64
    means = examples.sum(1).reshape(8, 8).mean(1)
    for first, last in ((0, 3), (3, 5), (5, 8)):
        np.testing.assert_allclose(steps[last - 1].train["sum"], means[first:last].mean(), rtol=1e-5, atol=1e-6)


def test_test_split_is_generated_once_from_another_key_than_training():
    found = dataset()
    every = np.array([reference(0, number) for number in range(64)])
    assert found.test.x.shape == (10, 4)
    assert np.abs(found.test.x[:, None] - every[None]).sum(2).min() > 1e-3
    np.testing.assert_array_equal(found.test.x, dataset().test.x)
    preview = found.train.x[:10]
    assert np.abs(found.test.x[:, None] - preview[None]).sum(2).min() > 1e-3
    np.testing.assert_allclose(found.train.x[np.array([7, 2])], preview[[7, 2]], rtol=1e-6)
    np.testing.assert_allclose(found.train.x[np.arange(20) % 2 == 0], found.train.x[:][::2], rtol=1e-6)


def test_run_resumed_at_any_step_has_the_same_bits():
    every = list(iterate(EXPERIMENT, dataset(), every=1, **OPTIONS))
    for i, now in enumerate(every):
        rest = list(iterate(EXPERIMENT, dataset(), every=2, resume=(now.state, now.totals), **OPTIONS))
        assert not rest or equal((rest[-1].state, rest[-1].test), (every[-1].state, every[-1].test)), i


def test_each_seed_generates_its_own_examples():
    *_, several = iterate(EXPERIMENT, dataset(), seeds=3, **OPTIONS)
    for seed in range(3):
        *_, one = iterate(EXPERIMENT, dataset(), seed=seed, **OPTIONS)
        np.testing.assert_allclose(several.train["sum"][seed], one.train["sum"], rtol=1e-5)
        np.testing.assert_allclose(several.state.params["mean"][seed], one.state.params["mean"], rtol=1e-5, atol=1e-7)
    assert len(np.unique(several.train["sum"])) == 3


def test_seeds_of_a_stream_with_its_own_seed_share_every_example():
    *_, several = iterate(EXPERIMENT, dataset(seed=5), seeds=3, **OPTIONS)
    *_, one = iterate(EXPERIMENT, dataset(seed=5), seed=2, **OPTIONS)
    *_, own = iterate(EXPERIMENT, dataset(), seed=5, **OPTIONS)
    np.testing.assert_allclose(several.train["sum"], np.repeat(own.train["sum"], 3), rtol=1e-5)
    means = np.asarray(several.state.params["mean"])
    np.testing.assert_allclose(means[2], one.state.params["mean"], rtol=1e-5, atol=1e-7)
    assert len(np.unique(means.round(6), axis=0)) == 3  # the noise of the loss is each seed's own
    assert dataset(seed=5).fingerprint() not in (dataset(seed=6).fingerprint(), dataset().fingerprint())


@pytest.mark.parametrize(("seed", "shape"), [(None, "3,8,3"), (5, "8,3")])
def test_shared_examples_are_generated_once_for_all_seeds(seed, shape):
    plan = plans.plan("auto", 8, 3)
    state, totals = start(EXPERIMENT, dataset().info, 8, range(3))
    portion = feed(dataset(seed=seed).train, plan, range(3), 8)(0, 0)
    args = (state, totals, *portion[:2], keys(range(3), TRAIN), 0, 2)
    steps = epoch.train(EXPERIMENT.train, (4,), 8, lambda x: x, Layout())
    axes = tuple(0 if has else None for has in seeded(plan, args)[0])
    program = str(jax.make_jaxpr(jax.vmap(steps, in_axes=axes))(*args))
    assert f":u32[{shape}] = random_bits[" in program


def test_numbers_of_examples_are_unsigned():
    """The start of a step is an int32 with the bits of the uint32 number of its first example."""
    generator = dataset().train.x.generator
    for number in (0, 7, 2**31 - 4, 2**31, 2**32 - 8):
        start = epoch.signed(number)
        assert -(2**31) <= start < 2**31
        found = epoch.drawn(generator, jax.random.key(3), start, jnp.arange(8)).x
        numbers = jnp.asarray(np.arange(number, number + 8, dtype=np.uint64).astype(np.uint32))
        np.testing.assert_array_equal(found, generator.examples(jax.random.key(3), numbers))
    portion = feed(dataset(10**9).train, plans.plan("auto", 8, 1), range(1), 8)(2, 3 * 10**8)
    assert portion.start == 24 * 10**8 - 2**32


DEVICES = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from jaxae.devices.plan import plan
from jaxae.training.iterate import iterate
from test_generated import EXPERIMENT, OPTIONS, dataset
found = {}
for way, seeds, reduction, counts in (
    ("pmap", 1, "fast", (8,)), ("jit", 1, "fast", (4,)), ("auto", 2, "fast", (2,)), ("auto", 1, "reproducible", (1, 8)),
):
    for count in counts:
        how = plan(way, 8, seeds, jax.devices()[:count], reduction)
        *_, end = iterate(EXPERIMENT, dataset(), seeds=seeds, plan=how, **OPTIONS)
        found[f"{way} {reduction} {count}"] = np.asarray(end.state.params["mean"], np.float64).tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_examples_do_not_depend_on_the_devices():
    """Runs on 8 devices by pmap, 4 by jit, and two seeds on 2 devices, agree with one device up to rounding.

    With reduction=reproducible, runs on 1 and 8 devices are equal bit for bit.
    """
    command = [sys.executable, "-c", DEVICES]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    *_, one = iterate(EXPERIMENT, dataset(), **OPTIONS)
    *_, two = iterate(EXPERIMENT, dataset(), seeds=2, **OPTIONS)
    for name, mean in found.items():
        expected = two if name == "auto fast 2" else one
        np.testing.assert_allclose(mean, expected.state.params["mean"], rtol=1e-5, atol=1e-7, err_msg=name)
    assert len({str(mean) for name, mean in found.items() if "reproducible" in name}) == 1


KILLED = """
import sys
import jaxae
from test_generated import EXPERIMENT, dataset
jaxae.fit(EXPERIMENT, dataset(20_000), epochs=30, batch_size=8, workdir=sys.argv[1], figures=False,
    checkpoint_every=500, checkpoint_unit="steps", progress=False)
"""


@pytest.mark.slow
def test_killed_run_resumes_with_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", KILLED]
    for kill, folder in ((False, "whole"), (True, "killed")):
        for seconds in (4.0, 5.0, 7.0) if kill else ():
            with subprocess.Popen([*command, str(tmp_path / folder)], cwd=Path(__file__).parent) as process:
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
        subprocess.run([*command, str(tmp_path / folder)], cwd=Path(__file__).parent, check=True)
    whole, killed = (tmp_path / name for name in ("whole", "killed"))
    assert (whole / "metrics.jsonl").read_bytes() == (killed / "metrics.jsonl").read_bytes()
    models = [jaxae.load(path, EXPERIMENT) for path in (whole, killed)]
    assert equal(models[0].state, models[1].state)


@pytest.mark.slow
def test_fit_trains_saves_and_resumes_on_generated_examples(tmp_path):
    """The model is a VAE for a table; a run does not resume with another generator."""
    run = {"epochs": 2, "batch_size": 8, "hidden": (4,), "progress": False}
    model = jaxae.fit("vae", dataset(), workdir=tmp_path / "run", figures=True, **run)
    assert model.reconstruct(dataset().test.x).shape == (10, 4)
    assert (tmp_path / "run" / "figures" / "pairs.png").exists()
    again = jaxae.fit("vae", dataset(), workdir=tmp_path / "run", **run)
    assert equal(again.state, model.state)
    with pytest.raises(ValueError, match="the data have changed"):
        jaxae.fit(
            "vae", data.generated(draw, (4,), train=20, test=10, arrays=2 * BASIS), workdir=tmp_path / "run", **run
        )


def test_fingerprint_is_that_of_the_computation():
    def scaled(factor):
        return lambda key, basis: factor * jax.random.normal(key, (3,)) @ basis

    def of(draw=draw, basis=BASIS, train=20):
        return data.generated(draw, (4,), train=train, test=10, arrays=basis).fingerprint()

    def same(key, basis):
        return jax.random.normal(key, (3,)) @ basis

    assert of() == of(same)
    assert len({of(), of(scaled(2.0)), of(scaled(3.0)), of(basis=2 * BASIS), of(train=21)}) == 5


@pytest.mark.parametrize(
    ("shape", "draw", "kind", "real"),
    [
        ((4,), lambda key, _: jax.random.uniform(key, (4,)), "table", True),
        ((5, 2), lambda key, _: jax.random.normal(key, (5, 2)), "series", True),
        ((3, 3, 1), lambda key, _: jax.random.uniform(key, (3, 3, 1)), "image", False),
        ((3, 3, 1), lambda key, _: jax.random.randint(key, (3, 3, 1), 0, 256).astype(jnp.uint8), "image", False),
    ],
    ids=["table", "series", "pixels", "bytes"],
)
def test_kind_follows_shape_and_range(shape, draw, kind, real):
    found = data.generated(draw, shape, train=30, test=20)
    assert (found.kind, found.real, found.shape) == (kind, real, shape)
    assert found.info.train == 30

    def watch(variables, batch, key):
        return {"loss": jnp.sum(batch.x**2, axis=tuple(range(1, batch.x.ndim)))}, {}

    experiment = jaxae.Experiment(Flat(), descend(watch, optax.sgd(0.0)), watch)
    *_, end = iterate(experiment, found, epochs=1, batch_size=10)
    drawn = np.array([draw(jax.random.fold_in(keys(range(1), DATA), n), ()) for n in range(30)], np.float64)
    drawn = drawn / 255 if found.from_bytes else drawn
    np.testing.assert_allclose(end.train["loss"], (drawn**2).reshape(30, -1).sum(1).mean(), rtol=1e-5)


class Flat(nn.Module):
    """No model."""

    @nn.compact
    def __call__(self, x):
        return self.param("a", nn.initializers.zeros, (1, 1)) + x.reshape(-1, 1)


def test_epoch_of_a_billion_examples_stores_none():
    found = dataset(10**9)
    now = next(iter(iterate(EXPERIMENT, found, epochs=4, batch_size=8)))
    assert now.step == 1
    assert "1,000,000,000 training" in data.summary(found)
    with pytest.raises(ValueError, match="epochs=5: generated examples repeat after 4,294,967,296"):
        iterate(EXPERIMENT, found, epochs=5, batch_size=8)


@pytest.mark.slow
def test_diverged_step_is_saved_with_its_examples(tmp_path):
    """An example is infinite if a uniform number from its key is below 0.002."""

    def sometimes(key, basis):
        return jnp.where(jax.random.uniform(jax.random.fold_in(key, 1)) < 0.002, jnp.inf, draw(key, basis))

    found = data.generated(sometimes, (4,), train=1000, test=10, arrays=BASIS)
    with pytest.raises(Diverged) as error:
        jaxae.fit(
            EXPERIMENT, found, epochs=5, batch_size=8, workdir=tmp_path / "run", figures=False, progress=False, seed=3
        )
    step = error.value.step_inputs["state"].step
    key = keys(range(3, 4), DATA)
    expected = [sometimes(jax.random.fold_in(key, number), BASIS) for number in range(8 * step, 8 * step + 8)]
    np.testing.assert_allclose(error.value.step_inputs["batch"]["x"], expected, rtol=1e-6)
    assert np.isinf(error.value.step_inputs["batch"]["x"]).any()
    replayed = jaxae.replay(tmp_path / "run", EXPERIMENT)
    np.testing.assert_allclose(replayed.batch.x, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("draw", "options", "says"),
    [
        (draw, {"train": 0}, "train=0 must be an integer, at least 1"),
        (draw, {"seed": -1}, "seed=-1 must be an integer from 0 to 4294967295"),
        (draw, {"test": 2**31}, "test=2147483648 must be an integer, at least 1, and below 2147483648"),
        (draw, {"shape": (3,)}, r"draw returns float32 \(4,\), not float32 \(3,\)"),
        (draw, {"shape": (4, 1, 1, 1)}, r"shape=\(4, 1, 1, 1\) must be \(D,\), \(T, D\) or \(H, W, C\)"),
        (lambda key, _: jnp.zeros(4, jnp.int32), {}, r"draw returns int32 \(4,\), not float32 \(4,\)"),
        (lambda key, _: jnp.zeros(4, jnp.uint8), {}, r"draw returns uint8 \(4,\), not float32 \(4,\)"),
        (lambda key, _: (jnp.zeros((4, 1)),), {"shape": (4, 1)}, "draw returns tuple, not uint8 or float32"),
        (lambda key: jnp.zeros(4), {}, r"draw must take two arguments, a key and the arrays: def draw\(key, arrays\)"),
        (lambda key, _: jnp.full(4, jnp.nan), {}, "draw returns numbers that are not finite"),
    ],
)
def test_invalid_generators_raise(draw, options, says):
    with pytest.raises(InputError, match=says):
        data.generated(draw, **{"shape": (4,), "train": 5, "test": 5, "arrays": BASIS, **options})


def test_static_binarization_of_generated_images_raises():
    found = data.generated(lambda key, _: jax.random.uniform(key, (3, 3, 1)), (3, 3, 1), train=20, test=10)
    with pytest.raises(InputError, match="binarize=static needs stored images, not generated ones; use dynamic"):
        jaxae.fit("vae", found, epochs=1, batch_size=5, binarize="static")
    model = jaxae.fit("vae", found, epochs=1, batch_size=5, hidden=(4,), binarize="dynamic", progress=False)
    assert np.isfinite(model.history[-1]["loss"])
