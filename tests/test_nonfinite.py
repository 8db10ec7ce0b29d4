"""Non-finite numbers, injected at a known step and place of a small run."""

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

from conftest import batch, new_key
from jaxae import data, run
from jaxae.core.step import Transition, descend, phases
from jaxae.core.types import State
from jaxae.devices.plan import plan
from jaxae.errors import Diverged
from jaxae.run import loop
from jaxae.training import epoch, iterate, nonfinite
from jaxae.training.checkpoint import Checkpoints

VALUES = (np.nan, np.inf, -np.inf)
PLACES = ("loss", "part", "gradient of a", "params/a", "opt_state/0/mu/a", "extra/memory/m")
COUNT, SIZE = 40, 8


@dataclass(frozen=True)
class Config(run.Config):
    """The default fields."""


class Net(nn.Module):
    """A mean image, and a variable that is not a parameter."""

    @nn.compact
    def __call__(self, x):
        self.variable("memory", "m", jnp.zeros, ())
        return self.param("a", nn.initializers.zeros, (4,))


@jax.custom_vjp
def poisoned(a, poison):
    """`a`, with `poison` added to its gradient."""
    return a


poisoned.defvjp(lambda a, poison: (a, poison), lambda poison, g: (g + poison, jnp.zeros(())))


def fault(batch, place):
    """0, or the non-finite value that the classes of the batch encode for this place."""
    chosen = jnp.max(batch.y)
    return jnp.where(chosen // len(VALUES) == place, jnp.array(VALUES)[chosen % len(VALUES)], 0.0)


def loss(variables, batch, key):
    """The squared distance from the mean image, and half of it as `part`."""
    a = poisoned(variables["params"]["a"], fault(batch, 2))
    square = jnp.sum((a[None] - batch.x.reshape(-1, 4)) ** 2, axis=1)
    return {"loss": square + fault(batch, 0), "part": square / 2 + fault(batch, 1)}, {}


def transition():
    """Adam, with faults added to its results."""
    adam = descend(loss, optax.adam(0.01))

    def step(state, batch, key):
        new, metrics = adam.step(state, batch, key)
        parts = (new.params["a"], new.opt_state[0].mu["a"], new.extra["memory"]["m"])
        a, mu, m = (part + fault(batch, place) for place, part in enumerate(parts, 3))
        opt_state = (new.opt_state[0]._replace(mu={"a": mu}), *new.opt_state[1:])
        return new._replace(params={"a": a}, opt_state=opt_state, extra={"memory": {"m": m}}), metrics

    return Transition(adam.init, step)


def evaluate(variables, batch, key):
    """The loss without injected faults."""
    return loss(variables, batch.replace(y=jnp.full_like(batch.y, -1)), key)


EXPERIMENT = run.Experiment(Net(), transition(), evaluate)


def dataset(y):
    x = np.random.default_rng(0).integers(0, 256, (len(y), 2, 2, 1), dtype=np.uint8)
    split = data.Split(x, np.asarray(y, np.int32))
    return data.Dataset(split, split, ())


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train on data with a fault. The programs are compiled once, since the fault is in the data."""
    compiled = {}
    folder = tmp_path_factory.mktemp("diverged")

    def train(y, seed, seeds, every):
        """The (step, count) of every dispatch, the message, and the newest checkpoint."""
        shutil.rmtree(folder)
        folder.mkdir()
        saves = {"checkpoint_every": every, "checkpoint_unit": "steps"}
        config = Config(epochs=2, batch_size=SIZE, seed=seed, seeds=seeds, device_data_limit=seed % 2 * 1e-9, **saves)
        dispatches = []

        def once(*args):
            key = (args[3].seeds, jax.tree.structure(args[4]), *map(np.shape, jax.tree.leaves(args[4])))
            if key not in compiled:
                compiled[key] = iterate.compiled(*args)

            def counted(state, *rest):
                dispatches.append((int(np.ravel(state.step)[0]), rest[-1]))
                return compiled[key].train(state, *rest)

            return iterate.Programs(counted, compiled[key].evaluate)

        faulty = dataset(y)
        with pytest.raises(Diverged) as error:
            loop.train(EXPERIMENT, config, faulty, plan("auto", SIZE, seeds), folder, compiler=once)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            saved = checkpoints.restore(loop.abstract(EXPERIMENT, config, faulty.info))
        return dispatches, str(error.value), saved

    return train


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_non_finite_values_are_named_with_their_step_and_never_saved(train, count):
    chance = random.Random(0)
    kinds = list(itertools.product(range(len(PLACES)), range(len(VALUES))))
    for i in range(count):
        place, value = kinds[7 * i % len(kinds)]  # the first six cover all places
        seeds, seed = 1 + i % 2, chance.randrange(100)
        y = np.full(COUNT, -1)
        example = chance.randrange(COUNT)
        y[example] = place * len(VALUES) + value
        orders = [list(epoch.order(s, 0, COUNT, SIZE)) for s in range(seed, seed + seeds)]
        step, bad_seed = min((order.index(example) // SIZE, seed + n) for n, order in enumerate(orders))
        dispatches, said, saved = train(y, seed, seeds, chance.randrange(1, 4))
        assert said == f"{PLACES[place]} is not finite at step {step} (seed {bad_seed})", i
        # The step is in the last dispatch, which was repeated to find it.
        began = max(first for first, _ in dispatches)
        assert began <= step < began + max(count for first, count in dispatches if first == began)
        if saved is not None:
            state = saved[0]["state"]
            assert np.all(state.step <= step)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved[0]))


@pytest.mark.parametrize("place", [0, 2, 5])
def test_faults_are_named_under_pmap_and_in_microbatches(place):
    """The step is repeated on one device and on the global batch."""
    y = np.full(COUNT, -1)
    y[17] = place * len(VALUES)
    step = list(epoch.order(3, 0, COUNT, SIZE)).index(17) // SIZE
    how = plan("pmap", SIZE, 1, jax.devices()[:1], accumulate=2)
    with pytest.raises(Diverged, match=rf"^{PLACES[place]} is not finite at step {step} \(seed 3\)$"):
        list(iterate.iterate(EXPERIMENT, dataset(y), epochs=1, batch_size=SIZE, seed=3, plan=how))


def test_non_finite_metric_of_an_evaluation_is_named_after_its_split():
    def broken(variables, batch, key):
        return {**loss(variables, batch, key)[0], "part": batch.repeat(jnp.where(batch.step < 10, 0.0, jnp.inf))}, {}

    experiment = run.Experiment(Net(), transition(), broken)
    snapshots = iterate.iterate(experiment, dataset(np.full(COUNT, -1)), epochs=3, batch_size=SIZE, seed=7, seeds=2)
    steps = []
    with pytest.raises(Diverged, match=r"^test part is not finite at step 10 \(seed 7\)$"):
        steps.extend(now.step for now in snapshots)
    assert steps[-1] == 10


def groups(name):
    """The squared distance of the data from one group; half of it from both."""

    def loss(variables, batch, key):
        params = variables["params"]
        poison = fault(batch, ("a", "b").index(name))
        off = poisoned(params[name], poison)[None] - batch.x.reshape(-1, 4)
        return {"loss": jnp.sum(off**2, axis=1) + batch.repeat(jnp.sum(params["a"] * params["b"]))}, {}

    return loss


BOTH = phases((2, descend(groups("a"), optax.sgd(0.1))), (0, descend(groups("b"), optax.sgd(0.1), wrt=("b",))))


@pytest.mark.parametrize("step", [0, 1, 2, 7])
def test_named_values_are_the_gradients_of_the_current_phase(step):
    """Only the selected branch of a switch is evaluated, also in a jitted step."""
    a, b, x = jnp.arange(4.0), jnp.array([0.5, -1.0, 2.0, 3.0]), jax.random.normal(new_key(), (8, 2, 2, 1))
    params = {"a": a, "b": b}
    state = State(jnp.int32(step), params, BOTH.init(params), {})
    mean = np.mean(x, axis=0).reshape(4)
    off = [a, b][int(step >= 2)][None] - x.reshape(-1, 4)
    term = {"term loss": np.sum(off**2, axis=1) + np.sum(a * b)}
    of_a = {"gradient of a": 2 * (a - mean) + b, "gradient of b": a}
    expected = term | (of_a if step < 2 else {"gradient of b": 2 * (b - mean) + a})
    for f in (BOTH.step, jax.jit(BOTH.step)):
        found = nonfinite.named_values(f, state, batch(x), new_key())
        assert [name for name, _ in found] == list(expected)
        for name, value in found:
            np.testing.assert_allclose(value, expected[name], rtol=1e-5)


def test_overflow_between_two_layers_is_named_as_the_input_of_the_second():

    def f(params, x):
        z = nn.Dense(2, name="first").apply({"params": params["first"]}, x)
        return nn.Dense(2, name="second").apply({"params": params["second"]}, jnp.exp(100 * z)).sum()

    kernels = {name: {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)} for name in ("first", "second")}
    x = jnp.ones((3, 2))
    assert nonfinite.find_nonfinite(f, kernels, x)[:2] == ["the input of second", "the output of second"]
    assert nonfinite.find_nonfinite(f, kernels, 0.1 * x) == []
    kernels["first"]["kernel"] *= 3e38
    assert nonfinite.find_nonfinite(f, kernels, x)[0] == "the output of first"


def test_compiled_step_has_no_names_and_no_callbacks():
    params = {"a": jnp.ones(4), "b": jnp.ones(4)}
    state = State(jnp.int32(0), params, BOTH.init(params), {})
    text = jax.jit(BOTH.step).lower(state, batch(jnp.zeros((8, 2, 2, 1))), new_key()).as_text()
    assert "gradient of" not in text
    assert "callback" not in text


class Two(nn.Module):
    """Two mean images."""

    @nn.compact
    def __call__(self, x):
        return [self.param(name, nn.initializers.zeros, (4,)) for name in ("a", "b")]


@pytest.mark.parametrize(("group", "seeds"), [("a", 1), ("b", 2)])
def test_gradient_is_named_in_the_current_phase(group, seeds):
    """A second fault is in the group of the other phase, which is not differentiated."""
    orders = [list(epoch.order(seed, 0, COUNT, SIZE)) for seed in range(5, 5 + seeds)]
    steps = {"a": (0, 1), "b": (2, 3, 4)}[group]
    taken = {i: [order.index(i) // SIZE for order in orders] for i in range(COUNT)}  # its step in each seed
    there = [i for i in taken if set(taken[i]) <= set(steps)]
    bad, harmless = there[0], next(i for i in there if not set(taken[i]) & set(taken[there[0]]))
    y = np.full(COUNT, -1)
    y[bad], y[harmless] = ("ab".index(g) * len(VALUES) for g in (group, "ab".replace(group, "")))
    step, seed = min((step, 5 + n) for n, step in enumerate(taken[bad]))
    experiment = run.Experiment(Two(), BOTH, groups("a"))
    match = re.escape(f"gradient of {group} is not finite at step {step} (seed {seed})")
    with pytest.raises(Diverged, match=f"^{match}$"):
        list(iterate.iterate(experiment, dataset(y), epochs=1, batch_size=SIZE, seed=5, seeds=seeds))
