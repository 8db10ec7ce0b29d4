from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit

from conftest import apply, batch, equal, evaluated, initial, new_key
from jaxae import data
from jaxae.core.step import descend, phases
from jaxae.core.types import State
from jaxae.experiments import stacked as experiment
from jaxae.variants import autoencoder, stacked

X = np.random.default_rng(0).uniform(size=(5, 2, 3)).astype(np.float32)
B = batch(X)


def towards(name, *others):
    """A loss: half the squared distance of a group from noise, with twice that as the terms `others`."""

    def loss(variables, batch, key):
        distance = variables["params"][name] - batch.mean(batch.noise(key, (3,)))
        value = batch.repeat(0.5 * jnp.sum(distance**2))
        return {"loss": value, **dict.fromkeys(others, 2 * value)}, {}

    return loss


def parts():
    """`a` by Adam for two steps, `b` by momentum for three, then `a` again by SGD."""
    return (
        descend(towards("a", "mse", "code"), optax.adam(0.1), wrt=("a",)),
        descend(towards("b", "mse"), optax.sgd(0.1, momentum=0.9), wrt=("b",)),
        descend(towards("a", "code", "mse"), optax.sgd(0.1), wrt=("a",)),
    )


PLAN = (0, 0, 1, 1, 1, 2, 2, 2)  # the group that is updated in each of the first steps


def start(transition, seed=0):
    params = {name: jax.random.normal(jax.random.key(seed + i), (3,)) for i, name in enumerate("abc")}
    return State(jnp.int32(0), params, transition.init(params), {})


def run(transition, state, key, steps=8):
    """The states before every step and after the last, and the metrics."""
    states, seen = [state], []
    step = jax.jit(transition.step)
    for i in range(steps):
        state, metrics = step(state, B, jax.random.fold_in(key, i))
        state = state._replace(step=state.step + 1)
        states.append(state)
        seen.append(metrics)
    return states, seen


def test_only_the_current_phase_is_computed_with_several_seeds():
    transition = phases((2, parts()[0]), (0, parts()[2]))
    states = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), start(transition))
    program = jax.make_jaxpr(jax.vmap(transition.step, (0, None, 0)))(states, B, jax.random.split(new_key()))
    assert [e.primitive.name for e in program.eqns].count("cond") == 1  # vmap alone would turn it into a select


def test_phases_run_their_transitions_in_sequence():
    first, second, last = parts()
    transition = phases((2, first), (3, second), (0, last))
    states, seen = run(transition, start(transition), new_key())
    opt_states, steps = list(states[0].opt_state), [jax.jit(part.step) for part in parts()]
    for i, part in enumerate(PLAN):
        before, after = states[i], states[i + 1]
        alone = before._replace(opt_state=opt_states[part])
        expected, metrics = steps[part](alone, B, jax.random.fold_in(new_key(), i))
        opt_states[part] = expected.opt_state
        for name in "abc":
            np.testing.assert_allclose(after.params[name], expected.params[name], rtol=1e-6)
            moves = name == ("a", "b", "a")[part]
            assert equal(after.params[name], before.params[name]) is not moves
        for n in range(3):
            assert n == part or equal(after.opt_state[n], before.opt_state[n])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.opt_state[n], opt_states[n])
        assert set(seen[i]) == {"loss", "mse"}
        np.testing.assert_allclose(seen[i]["loss"], metrics["loss"], rtol=1e-6)
        np.testing.assert_allclose(seen[i]["mse"], 2 * seen[i]["loss"], rtol=1e-6)
    assert states[-1].opt_state[0][0].count == 2
    assert not equal(states[2].opt_state[0], states[0].opt_state[0])


def test_single_phase_equals_its_transition():
    first, *_ = parts()
    one = phases((7, first))
    (_, after), (metrics,) = run(one, start(one), new_key(), 1)
    expected, measured = jax.jit(first.step)(start(first), B, jax.random.fold_in(new_key(), 0))
    assert equal(after.params, expected.params)
    assert equal(metrics, measured)


def test_phases_of_no_steps_are_skipped():
    first, second, last = parts()
    transition = phases((0, first), (1, second), (0, first), (0, last))
    states, _ = run(transition, start(transition), new_key(), 2)
    assert equal(states[1].params["a"], states[0].params["a"])
    assert not equal(states[1].params["b"], states[0].params["b"])
    assert equal(states[2].params["b"], states[1].params["b"])
    np.testing.assert_allclose(
        states[2].params["a"],
        jax.jit(last.step)(states[1]._replace(opt_state=states[1].opt_state[3]), B, jax.random.fold_in(new_key(), 1))[
            0
        ].params["a"],
        rtol=1e-6,
    )


def test_phases_with_several_seeds_equal_those_of_each_seed():
    first, second, last = parts()
    transition = phases((2, first), (3, second), (0, last))
    starts = [start(transition, seed) for seed in (0, 10, 20)]
    keys = jax.random.split(new_key(), 3)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)

    def body(i, state):
        folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, i)
        state, _ = jax.vmap(transition.step, in_axes=(0, None, 0))(state, B, folded)
        return state._replace(step=state.step + 1)

    together = jax.jit(lambda state: jax.lax.fori_loop(0, len(PLAN), body, state))(together)
    for i, one in enumerate(starts):
        states, _ = run(transition, one, keys[i])
        seed = jax.tree.map(lambda leaf: leaf[i], together)  # noqa: B023
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), seed, states[-1])
        assert equal(seed.params["c"], one.params["c"])


def network():
    """[2, 3] -> 5 -> 4 -> 2 and back, with biases."""
    model = stacked.Stacked((2, 3), (5, 4, 2), activation=jnp.tanh)
    shapes = jax.eval_shape(model.init, new_key(), jnp.asarray(X))["params"]
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) / 2, jnp.float32), shapes)


def affine(params, name, x):
    layer = jax.tree.map(lambda p: np.asarray(p, np.float64), params[name]["Dense_0"])
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]


def codes(params, layers):
    h = X.astype(np.float64)
    for i in range(layers):
        h = np.tanh(affine(params, f"encoder_{i}", h))
    return h


def test_groups_and_composition_against_numpy():
    model, params = network()
    assert set(params) == {*stacked.groups(0), *stacked.groups(1), *stacked.groups(2)}
    h = codes(params, 3)
    z, logits = apply(model, {"params": params}, X)
    np.testing.assert_allclose(z, h, rtol=1e-5, atol=1e-6)
    h = np.tanh(affine(params, "decoder_2", h))
    h = np.tanh(affine(params, "decoder_1", h))
    exact = affine(params, "decoder_0", h).reshape(5, 2, 3)
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(model, {"params": params}, z, method="logits"), exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(apply(model, {"params": params}, z, method="decode"), expit(exact), rtol=1e-5)
    terms, _ = evaluated(autoencoder.loss(model, "mse"), {"params": params}, B)
    np.testing.assert_allclose(terms["loss"], ((expit(exact) - X) ** 2).mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_greedy_loss_against_numpy(number):
    """Cross-entropy of the pixels for the first layer, squared error of the previous layer's codes for the others."""
    model, params = network()
    terms, updates = evaluated(stacked.greedy(model, number), {"params": params}, B)
    below = codes(params, number)
    above = affine(params, f"decoder_{number}", codes(params, number + 1))
    if number == 0:
        p, x = expit(above), X.reshape(5, 6)
        exact = -(x * np.log(p) + (1 - x) * np.log(1 - p))
    else:
        exact = (np.tanh(above) - below) ** 2
    np.testing.assert_allclose(terms["loss"], exact.mean(1), rtol=1e-5)
    assert set(terms) == {"loss"}
    assert updates == {}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_greedy_descent_updates_its_own_layer_only(number):
    model, params = network()
    transition = descend(stacked.greedy(model, number), optax.sgd(0.1), wrt=stacked.groups(number))
    state = State(jnp.int32(0), params, transition.init(params), {})
    new, _ = jax.jit(transition.step)(state, B, new_key())
    moved = {name for name in params if not equal(new.params[name], params[name])}
    assert moved == {f"encoder_{number}", f"decoder_{number}"}


# First steps of the phases: epochs 2, 4 and 6 of 1,000 examples in batches of 256 begin at steps 8, 16 and 24 (7.8,
# 15.6 and 23.4 rounded up); epochs 20, 40 and 60 of 60,000 at 4688, 9375 and 14063 (4687.5, 9375 and 14062.5).
@pytest.mark.parametrize(
    ("examples", "greedy", "step", "layers"),
    [
        (1000, 2, 0, {0}),
        (1000, 2, 7, {0}),
        (1000, 2, 8, {1}),
        (1000, 2, 15, {1}),
        (1000, 2, 16, {2}),
        (1000, 2, 23, {2}),
        (1000, 2, 24, {0, 1, 2}),
        (60_000, 20, 4687, {0}),
        (60_000, 20, 4688, {1}),
        (60_000, 20, 9374, {1}),
        (60_000, 20, 9375, {2}),
        (60_000, 20, 14062, {2}),
        (60_000, 20, 14063, {0, 1, 2}),
    ],
)
def test_experiment_updates_the_layers_of_its_phase(examples, greedy, step, layers):
    built, start = small_experiment(greedy, examples)
    new, metrics = jax.jit(built.train.step)(start._replace(step=jnp.int32(step)), B, new_key())
    moved = {name for name in start.params if not equal(new.params[name], start.params[name])}
    assert moved == {name for number in layers for name in stacked.groups(number)}
    assert set(metrics) == {"loss"}


@cache
def small_experiment(greedy, examples):
    """The experiment with widths 5-4-3 on [2, 3], and its initial state."""
    config = experiment.Config(hidden=(5, 4), latent=3, greedy=greedy)
    built = experiment.build(config, data.Info((2, 3), examples))
    params = initial(built.model, X)["params"]
    return built, State(jnp.int32(0), params, built.train.init(params), {})


def test_schedule_of_each_phase_decays_over_its_own_steps():
    """The rate falls from `lr` at the first step of a phase to nearly 0 at its last; each step is lr times a gradient.

    100 examples in batches of 10: 10 steps for each of two layers, then 30 of fine-tuning.
    """
    config = experiment.Config(
        hidden=(4,), latent=3, greedy=1, epochs=5, batch_size=10, optimizer="sgd", eps=0.0, lr=0.5, schedule="linear"
    )
    built = experiment.build(config, data.Info((2, 3), 100))
    params = initial(built.model, X)["params"]
    opt_state = built.train.init(params)
    losses = [stacked.greedy(built.model, 0), stacked.greedy(built.model, 1), built.evaluate]
    for phase, (loss, first, steps) in enumerate(zip(losses, (0, 10, 20), (10, 10, 30), strict=True)):
        name = f"encoder_{min(phase, 1)}"
        slope = jax.jit(jax.grad(lambda p, loss=loss: loss({"params": p}, B, new_key())[0]["loss"].mean()))(params)
        for n in (0, 1, steps - 1, steps):
            counted = jax.tree.map(lambda leaf, n=n: np.full_like(leaf, n), opt_state)  # steps of the phase so far
            state = State(jnp.int32(first), params, counted, {})
            new, _ = jax.jit(built.train.step)(state, B, new_key())
            moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params[name], new.params[name])
            expected = jax.tree.map(lambda g, n=n, steps=steps: 0.5 * (1 - n / steps) * np.asarray(g), slope[name])
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), moved, expected)


def test_experiment_has_the_widths_of_its_fields():
    assert experiment.build(experiment.Config(), data.Info((28, 28, 1), 60_000)).model.widths == (128, 64, 32)


def test_greedy_epochs_that_leave_none_for_fine_tuning_raise():
    info = data.Info((2, 3), 1000)
    with pytest.raises(ValueError, match="greedy=20 epochs for each layer leave none of epochs=60 to fine-tune"):
        experiment.build(experiment.Config(epochs=60), info)
    experiment.build(experiment.Config(epochs=61), info)
