"""A number that is not finite, put at a known step into a known place of a small run."""

import itertools
import random
import re
import shutil
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxae import data, epoch, loop, parallel, run
from jaxae.batch import mean
from jaxae.checkpoint import Checkpoints
from jaxae.errors import Diverged
from jaxae.step import Transition, descend, observed, phases

VALUES = (np.nan, np.inf, -np.inf)
PLACES = ("loss", "part", "the gradient of a", "params/a", "opt_state/0/mu/a", "extra/memory/m")
COUNT, SIZE = 40, 8


@dataclass(frozen=True)
class Config(run.Config):
    """Nothing of its own."""


class Net(nn.Module):
    """A mean image, and a number that is remembered."""

    @nn.compact
    def __call__(self, x):
        self.variable("memory", "m", jnp.zeros, ())
        return self.param("a", nn.initializers.zeros, (4,))


@jax.custom_vjp
def poisoned(a, poison):
    """`a`, whose gradient is poisoned."""
    return a


poisoned.defvjp(lambda a, poison: (a, poison), lambda poison, g: (g + poison, jnp.zeros(())))


def fault(batch, place):
    """What the classes of the batch say: 0, or a value that is not finite if it is to be put into this place."""
    chosen = jnp.max(batch.y)
    return jnp.where(chosen // len(VALUES) == place, jnp.array(VALUES)[chosen % len(VALUES)], 0.0)


def loss(params, extra, batch, key):
    """The squared distance from the mean image; `part` of it is a half."""
    a = poisoned(params["a"], fault(batch, 2))
    value = mean(jnp.sum((a[None] - batch.x.reshape(-1, 4)) ** 2, axis=1), batch)
    return value, (extra, {"loss": value + fault(batch, 0), "part": value / 2 + fault(batch, 1)})


def transition():
    """Descent, whose results are spoilt."""
    adam = descend(loss, optax.adam(0.01))

    def step(state, batch, key):
        new, metrics = adam.step(state, batch, key)
        parts = (new.params["a"], new.opt_state[0].mu["a"], new.extra["memory"]["m"])
        a, mu, m = (part + fault(batch, place) for place, part in enumerate(parts, 3))
        opt_state = (new.opt_state[0]._replace(mu={"a": mu}), *new.opt_state[1:])
        return new._replace(params={"a": a}, opt_state=opt_state, extra={"memory": {"m": m}}), metrics

    return Transition(adam.init, step)


def evaluate(params, extra, batch, key):
    """Always well."""
    return loss(params, extra, batch._replace(y=jnp.full_like(batch.y, -1)), key)


EXPERIMENT = run.Experiment(Net(), transition(), evaluate)


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Trains on data with a fault; the programs are compiled once, since the fault is in the data."""
    compiled = {}

    def once(make, plan, seeded, example):
        key = (make.func.__name__, plan.seeds, jax.tree.structure(example), *map(np.shape, jax.tree.leaves(example)))
        if key not in compiled:
            compiled[key] = parallel.compile(make, plan, seeded, example)
        return compiled[key]

    folder = tmp_path_factory.mktemp("diverged")

    def train(y, seed, seeds, every):
        """Steps of every dispatch, what was said, the newest checkpoint."""
        shutil.rmtree(folder)
        folder.mkdir()
        x = np.random.default_rng(0).integers(0, 256, (COUNT, 2, 2, 1), dtype=np.uint8)
        split = data.Split(x, y.astype(np.int32))
        saves = {"checkpoint_every": every, "checkpoint_unit": "steps"}
        config = Config(epochs=2, batch_size=SIZE, seed=seed, seeds=seeds, device_data_limit=seed % 2 * 1e-9, **saves)
        dispatches = []

        def watched(*args):
            function = once(*args)
            if args[0].func is not epoch.train:
                return function

            def counted(state, *rest):
                dispatches.append((int(np.ravel(state.step)[0]), rest[-1]))
                return function(state, *rest)

            return counted

        dataset, plan = data.Dataset(split, split, ()), parallel.plan("auto", SIZE, seeds)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "compile", watched)
            with pytest.raises(Diverged) as error:
                loop.fit(EXPERIMENT, config, dataset, plan, folder)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            saved = checkpoints.restore(loop.abstract(EXPERIMENT, config, dataset.shape))
        return dispatches, str(error.value), saved

    return train


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_faults_are_named_with_their_step_and_none_is_saved(train, count):
    chance = random.Random(0)
    kinds = list(itertools.product(range(len(PLACES)), range(len(VALUES))))
    for i in range(count):
        place, value = kinds[i % len(kinds)]
        seeds, seed = 1 + i % 2, chance.randrange(100)
        y = np.full(COUNT, -1)
        example = chance.randrange(COUNT)
        y[example] = place * len(VALUES) + value
        orders = [list(epoch.order(s, 0, COUNT, SIZE)) for s in range(seed, seed + seeds)]
        step, bad_seed = min((order.index(example) // SIZE, seed + n) for n, order in enumerate(orders))
        dispatches, said, saved = train(y, seed, seeds, chance.randrange(1, 4))
        term = re.escape(PLACES[place])
        assert re.match(rf"{term} is not finite at step {step} \(seed {bad_seed}\); ", said), (said, i)
        # What is said was found by doing the dispatch again: in the run itself it was the last one.
        began = max(first for first, _ in dispatches)
        assert began <= step < began + max(count for first, count in dispatches if first == began)
        if saved is not None:
            state = saved[0]["state"]
            assert np.all(state.step <= step)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved[0]))


def test_gradients_are_seen_in_the_phase_that_is_on():
    """Also within a switch; and nothing is traced into steps that nobody observes."""
    both = phases((1, descend(loss, optax.sgd(1.0))), (0, descend(loss, optax.sgd(2.0))))
    params = {"a": jnp.ones(4)}
    state = loop.State(jnp.int32(0), params, both.init(params), {})
    batch = epoch.gather(
        loop.Examples(jnp.zeros((8, 4), jnp.uint8), jnp.full(8, -1)),
        jnp.arange(8),
        jnp.arange(8),
        jnp.ones(8),
        (2, 2, 1),
    )
    seen = []
    with observed(lambda gradient: seen.append(gradient["a"])):
        jax.block_until_ready(jax.jit(both.step)(state, batch, jax.random.key(0)))
        jax.effects_barrier()
    np.testing.assert_allclose(seen, [[2.0] * 4])
    assert "callback" not in str(jax.make_jaxpr(lambda *args: both.step(*args))(state, batch, jax.random.key(0)))
