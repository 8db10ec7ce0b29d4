"""The training generator: snapshots depend neither on the consumer nor on resuming."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toy
from conftest import equal
from jaxae import data, run
from jaxae.core.batch import Layout
from jaxae.core.step import descend
from jaxae.devices.plan import plan
from jaxae.training import epoch, iterate
from jaxae.training.start import TEST, TRAIN, keys, start

COUNT, SIZE, EPOCHS = 22, 4, 3
STEPS = epoch.first_step(EPOCHS, COUNT, SIZE)
ENDS = [epoch.first_step(n, COUNT, SIZE) for n in range(1, EPOCHS + 1)]


def digits(train=COUNT, test=7):
    """A few digits, whose number is not a multiple of the batch size."""
    whole = data.load("digits")
    cut = [jax.tree.map(lambda a, n=n: a[:n], split) for split, n in zip(whole[:2], (train, test), strict=True)]
    return data.Dataset(*cut, whole.classes)


DATA = digits()
TOY = toy.build(toy.Config(), DATA.info)
compiled = {}


def once(*args):
    """Programs of the toy, compiled once for all tests."""
    key = (args[3].seeds, jax.tree.structure(args[4]), *map(np.shape, jax.tree.leaves(args[4])))
    if key not in compiled:
        compiled[key] = iterate.compiled(*args)
    return compiled[key]


class Net(nn.Module):
    """A mean image."""

    @nn.compact
    def __call__(self, x):
        return self.param("a", nn.initializers.normal(), x.shape[1:])


def square(variables, batch, key):
    """Squared distance of noisy images from the mean image."""
    off = variables["params"]["a"][None] - batch.x - 0.3 * batch.noise(key, batch.x.shape[1:])
    return {"distance": jnp.sum(jnp.abs(off), axis=(1, 2, 3)), "loss": jnp.sum(off**2, axis=(1, 2, 3))}, {}


PLAIN = run.Experiment(Net(), descend(square, optax.sgd(0.1)), square)


def with_term(name, shape):
    def loss(variables, batch, key):
        return {**square(variables, batch, key)[0], name: jnp.zeros(shape)}, {}

    return loss


def without_loss(variables, batch, key):
    return {"mse": square(variables, batch, key)[0]["loss"]}, {}


def follow(**changes):
    fields = {"epochs": EPOCHS, "batch_size": SIZE, "plan": plan("auto", SIZE, changes.get("seeds", 1))}
    return iterate.iterate(TOY, DATA, compiler=once, **{**fields, **changes})


def results(now):
    """A snapshot without its time."""
    return now._replace(seconds=0.0)


@pytest.fixture(scope="module", params=[1, 3], ids=["one seed", "three seeds"])
def every_step(request):
    """Number of seeds, and the snapshots of every step."""
    return request.param, list(follow(seeds=request.param, every=1))


def test_snapshots_cover_every_step_and_each_epoch_ends_with_two(every_step):
    seeds, snapshots = every_step
    expected = [(step, 1 + sum(step > end for end in ENDS), step in ENDS, False) for step in range(1, STEPS + 1)]
    for n, end in enumerate(ENDS, 1):
        expected.insert(expected.index((end, n, True, False)) + 1, (end, n, True, True))
    assert [(now.step, now.epoch, now.done, now.test is not None) for now in snapshots] == expected
    for now in snapshots:
        assert np.all(now.state.step == now.step)
        assert np.shape(now.state.step) == np.shape(now.train["loss"]) == ((seeds,) if seeds > 1 else ())


def test_means_are_over_the_steps_of_the_epoch_so_far(every_step):
    _, snapshots = every_step
    before = {"steps": 0, "sum": dict.fromkeys(("loss", "mse", "critic"), 0.0)}
    for now in snapshots:
        first = ([0, *ENDS])[now.epoch - 1]
        assert set(now.train) == {"loss", "mse", "critic"}
        if now.test is None:
            steps = now.step - first
            assert np.all(now.totals["steps"] == steps)
            for name, mean in now.train.items():
                assert np.all(np.isfinite(mean))
                np.testing.assert_allclose(mean, np.asarray(now.totals["sum"][name]) / steps, rtol=1e-6)
                assert np.all(now.totals["sum"][name] != before["sum"][name])
            before = now.totals
        else:
            assert set(now.test) == {"loss", "mse"}
            for name, mean in now.train.items():  # means of the finished epoch, whose totals have been reset
                np.testing.assert_allclose(mean, np.asarray(before["sum"][name]) / (now.step - first), rtol=1e-6)
            assert not any(map(np.any, jax.tree.leaves((now.totals["steps"], now.totals["sum"]))))
            before = now.totals


def examples(split):
    return epoch.Examples(jnp.asarray(split.x.reshape(len(split.x), -1)), jnp.asarray(split.y))


def test_epoch_equals_single_steps_of_the_transition():
    """The evaluation is the mean over the test split, at the step after the last one."""
    *_, last = iterate.iterate(PLAIN, DATA, epochs=1, batch_size=SIZE, seed=9)
    state, totals = start(PLAIN, DATA.info, SIZE, range(9, 10))
    key, test_key = (keys(range(9, 10), purpose) for purpose in (TRAIN, TEST))
    order = epoch.order(9, 0, COUNT, SIZE)
    assert totals["steps"] == state.step == 0

    @jax.jit
    def step(state, rows):
        batch = epoch.gather(examples(DATA.train), rows, jnp.arange(SIZE), jnp.ones(SIZE), state.step, DATA.shape)
        new, metrics = PLAIN.train.step(state, batch, jax.random.fold_in(key, state.step))
        return new._replace(step=state.step + 1), metrics

    losses = []
    for i in range(ENDS[0]):
        state, metrics = step(state, order[i * SIZE : (i + 1) * SIZE])
        losses.append(metrics["loss"])
    np.testing.assert_allclose(last.train["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(last.state.params["a"], state.params["a"], rtol=1e-5, atol=1e-7)
    evaluate = jax.jit(epoch.evaluate(square, DATA.shape, SIZE, lambda x: x, Layout()))
    np.testing.assert_allclose(last.test["loss"], evaluate(state, examples(DATA.test), test_key)["loss"], rtol=1e-5)


@pytest.mark.parametrize(("every", "multiples"), [(3, (3,)), ((4, 0, 7), (4, 7)), ((), ())])
def test_snapshot_is_yielded_at_every_multiple(every, multiples):
    steps = [now.step for now in follow(every=every) if now.test is None]
    assert steps == sorted(set(steps))
    assert set(steps) >= {step for step in range(1, STEPS + 1) if any(step % n == 0 for n in multiples)} | set(ENDS)


def test_resuming_from_any_snapshot_gives_the_same_bits(every_step):
    """The snapshots include those between the last step of an epoch and its evaluation, and copies on the host."""
    seeds, snapshots = every_step
    for i, now in enumerate(snapshots):
        resume = (now.state, now.totals) if i % 2 else jax.device_get((now.state, now.totals))
        rest = list(follow(seeds=seeds, every=1, resume=resume))
        assert equal([results(later) for later in rest], [results(later) for later in snapshots[i + 1 :]]), now[:3]


def test_number_of_steps_per_dispatch_changes_no_bit(every_step):
    seeds, snapshots = every_step
    expected = {(now.step, now.test is None): results(now) for now in snapshots}
    for every in ((), 5):
        met = [results(now) for now in follow(seeds=seeds, every=every)]
        assert equal(met, [expected[now.step, now.test is None] for now in met])
        assert sum(now.test is not None for now in met) == EPOCHS


def test_two_consumers_get_the_same_bits():
    """Two interleaved generators, with other computations and random numbers between snapshots."""
    first, second = follow(every=2), follow(every=2)
    pairs = []
    for one, other in zip(first, second, strict=True):
        np.random.default_rng().normal(size=10)
        jax.block_until_ready(jax.random.normal(jax.random.key(one.step), (10,)))
        pairs.append((results(one), results(other)))
    assert all(equal(one, other) for one, other in pairs)
    assert pairs[-1][0].step == STEPS


def test_later_steps_do_not_change_earlier_snapshots():
    """Buffers of earlier snapshots are not donated or overwritten."""
    kept, copies = [], []
    for now in follow(every=3):
        kept.append((now.state, now.totals))
        copies.append(jax.device_get(kept[-1]))
    assert equal(kept, copies)


@pytest.mark.slow
def test_several_seeds_equal_the_run_of_each_seed():
    fields = {"epochs": 2, "batch_size": SIZE, "plan": plan("auto", SIZE, 3)}
    *_, together = iterate.iterate(PLAIN, DATA, seed=5, seeds=3, **fields)
    for n in range(3):
        *_, alone = iterate.iterate(PLAIN, DATA, seed=5 + n, **{**fields, "plan": plan("auto", SIZE, 1)})
        a = together.state.params["a"][n]
        np.testing.assert_allclose(a, alone.state.params["a"], rtol=1e-5, atol=1e-7)
        for mine, theirs in ((together.train, alone.train), (together.test, alone.test)):
            for name, value in theirs.items():
                np.testing.assert_allclose(mine[name][n], value, rtol=1e-5)
    assert len(set(np.asarray(together.test["loss"]).tolist())) == 3


def test_finished_run_yields_nothing(every_step):
    seeds, snapshots = every_step
    end = snapshots[-1]
    assert list(follow(seeds=seeds, resume=(end.state, end.totals))) == []


def test_finished_run_is_extended_by_more_epochs(every_step):
    seeds, snapshots = every_step
    first = next(now for now in snapshots if now.test is not None)
    assert list(follow(seeds=seeds, epochs=1, resume=(first.state, first.totals))) == []
    rest = list(follow(seeds=seeds, every=1, resume=(first.state, first.totals)))
    assert equal([results(now) for now in rest], [results(now) for now in snapshots[-len(rest) :]])


def test_iterate_is_lazy():
    def refuse(*args):
        raise AssertionError("compiled")

    snapshots = iterate.iterate(TOY, DATA, epochs=1, batch_size=SIZE, compiler=refuse)
    with pytest.raises(AssertionError, match="compiled"):
        next(snapshots)


def test_default_plan_and_compiler_are_bit_exact():
    snapshots = list(iterate.iterate(TOY, DATA, epochs=1, batch_size=SIZE))
    assert equal(snapshots[-1]._replace(seconds=0.0), list(follow(epochs=1))[-1]._replace(seconds=0.0))


def test_batch_as_large_as_the_training_split_is_one_step_per_epoch():
    few = digits(train=6)
    found = list(iterate.iterate(TOY, few, epochs=2, batch_size=6))
    assert [(now.step, now.done) for now in found] == [(1, True), (1, True), (2, True), (2, True)]


@pytest.mark.parametrize("where", ["training", "evaluation"])
@pytest.mark.parametrize(
    ("loss", "line"),
    [
        (with_term("odd", ()), r"the term odd has shape \(\), not one number for each of 4 examples; Batch.repeat"),
        (with_term("odd", (1,)), r"the term odd has shape \(1,\), not one number"),
        (with_term("odd", (4, 1)), r"the term odd has shape \(4, 1\), not one number"),
        (with_term("loss", ()), r"the term loss has shape \(\), not one number"),
        (lambda *args: ({**square(*args)[0], "odd": 0.3}, {}), r"the term odd has shape \(\), not one number"),
        (without_loss, r"returns no term named loss, only \['mse'\]"),
    ],
)
def test_terms_of_a_wrong_shape_or_without_a_loss_raise(where, loss, line):
    losses = (loss, square) if where == "training" else (square, loss)
    experiment = run.Experiment(Net(), descend(losses[0], optax.sgd(0.1)), losses[1])
    with pytest.raises(ValueError, match=line):
        next(iterate.iterate(experiment, DATA, epochs=1, batch_size=SIZE))


@pytest.mark.parametrize("where", ["training", "evaluation"])
def test_loss_without_updates_raises(where, untyped):
    losses = (terms_alone, square) if where == "training" else (square, terms_alone)
    experiment = run.Experiment(Net(), descend(losses[0], optax.sgd(0.1)), losses[1])
    with pytest.raises(TypeError, match=r"a loss must return \(terms, updates\)"):
        next(iterate.iterate(experiment, DATA, epochs=1, batch_size=SIZE))


def terms_alone(variables, batch, key):
    return square(variables, batch, key)[0]


def test_transition_that_reports_no_loss_raises():
    experiment = run.Experiment(Net(), descend(square, optax.sgd(0.1), name="error"), square)
    with pytest.raises(ValueError, match=r"training reports no metric named loss, only \['distance', 'error'\]"):
        next(iterate.iterate(experiment, DATA, epochs=1, batch_size=SIZE))


def test_loss_that_gathers_raises_in_evaluation():
    def loss(variables, batch, key):
        return {"loss": square(variables, batch, key)[0]["loss"] + batch.gather(batch.x).mean()}, {}

    experiment = run.Experiment(Net(), descend(loss, optax.sgd(0.1)), square)
    assert next(iterate.iterate(experiment, DATA, epochs=1, batch_size=SIZE)).step == 1
    with pytest.raises(ValueError, match="Batch.gather is for training"):
        next(iterate.iterate(dataclasses.replace(experiment, evaluate=loss), DATA, epochs=1, batch_size=SIZE))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"batch_size": COUNT + 1}, f"batch_size=23 exceeds the {COUNT} training examples"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"every": (3, -1)}, "every=-1 must be at least 0"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seeds": 2, "plan": plan("auto", SIZE, 1)}, "seeds=2 differs from the plan's 1"),
    ],
)
def test_arguments_out_of_range_raise_at_the_call(fields, line):
    with pytest.raises(ValueError, match=line):
        iterate.iterate(PLAIN, DATA, **{"epochs": 1, "batch_size": SIZE, **fields})


def test_sequences_of_different_lengths_need_an_experiment_that_takes_them():
    lengths = np.ones(COUNT, np.int32)
    data = DATA._replace(train=DATA.train._replace(lengths=lengths))
    with pytest.raises(ValueError, match="sequences of different lengths"):
        iterate.iterate(PLAIN, data, epochs=1, batch_size=SIZE)
    iterate.iterate(dataclasses.replace(PLAIN, sequences=True), data, epochs=1, batch_size=SIZE)


def test_metrics_may_have_any_name():
    """The names of totals and names that end in _mean or _std are allowed."""
    names = ("loss_mean", "loss_std", "steps", "bad", "sum")

    def loss(variables, batch, key):
        terms = square(variables, batch, key)[0]
        return {**terms, **{name: (n + 2) * terms["loss"] for n, name in enumerate(names)}}, {}

    experiment = run.Experiment(Net(), descend(loss, optax.sgd(0.1)), loss)
    *_, end = iterate.iterate(experiment, DATA, epochs=1, batch_size=SIZE, seeds=2)
    for means in (end.train, end.test):
        assert set(means) == {"loss", "distance", *names}
        for n, name in enumerate(names):
            np.testing.assert_allclose(means[name], (n + 2) * means["loss"], rtol=1e-5)


def test_evaluation_leaves_the_state_unchanged():
    """The state is the same before and after an evaluation."""
    found = list(follow(every=1))
    for one, other in itertools.pairwise(found):
        assert equal(one.state, other.state) == (other.test is not None)
