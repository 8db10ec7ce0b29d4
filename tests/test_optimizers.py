"""Optimizers and schedules by name, averaged parameters, and resume with each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from conftest import batch, equal, new_key
from jaxae import run
from jaxae.core.step import averaged, descend
from jaxae.core.types import Averaged, State
from jaxae.experiments import convolutional, dense, iwae, simple, vae
from jaxae.training import optimizers

NAMES = optimizers.get_args(optimizers.Name)
# The bias of a dense layer and of a convolution, and a kernel.
PARAMS = {
    "a": jnp.array([1.0, -2.0]),
    "b": jnp.array([0.5, 3.0]).reshape(1, 1, 1, 2),
    "c": jnp.array([[1.0, 2], [3, 4]]),
}
GRADS = {
    "a": jnp.array([0.3, 4.0]),
    "b": jnp.array([-2.0, 0.1]).reshape(1, 1, 1, 2),
    "c": jnp.array([[1.0, -2], [0, 5]]),
}
KERNELS = {"a": False, "b": False, "c": True}


def moved(transformation, steps=3):
    params, state = PARAMS, transformation.init(PARAMS)
    for _ in range(steps):
        updates, state = transformation.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("adam", {}, optax.adam(0.1)),
        ("adam", {"eps": 1e-2}, optax.adam(0.1, eps=1e-2)),
        ("adamw", {"weight_decay": 0.3}, optax.adamw(0.1, weight_decay=0.3, mask=KERNELS)),
        ("adamw", {}, optax.adam(0.1)),
        ("adadelta", {"eps": 1e-3}, optax.adadelta(0.1, rho=0.95, eps=1e-3)),
        ("adagrad", {}, optax.adagrad(0.1)),
        ("lion", {"weight_decay": 0.3}, optax.lion(0.1, weight_decay=0.3, mask=KERNELS)),
        ("momentum", {}, optax.sgd(0.1, momentum=0.9)),
        ("nadam", {}, optax.nadam(0.1)),
        ("rmsprop", {}, optax.rmsprop(0.1)),
        ("sgd", {}, optax.sgd(0.1)),
        ("sgd", {"clip": 1.5}, optax.chain(optax.clip_by_global_norm(1.5), optax.sgd(0.1))),
    ],
)
def test_names_are_optax_optimizers(name, options, reference):
    for a, b in zip(
        *map(jax.tree.leaves, (moved(optimizers.optimizer(name, 0.1, **options)), moved(reference))), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_weight_decay_without_decoupling_is_the_gradient_of_a_penalty():
    """params - rate * (gradient + decay * params), of kernels; clipping applies to the gradient alone."""
    found = moved(optimizers.optimizer("sgd", 0.1, weight_decay=0.4, clip=2.0), steps=1)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in GRADS.values()))
    for name, params in PARAMS.items():
        decay = 0.4 * KERNELS[name]
        np.testing.assert_allclose(found[name], params - 0.1 * (GRADS[name] * 2 / norm + decay * params), rtol=1e-6)


@pytest.mark.parametrize("name", ["lion", "momentum", "sgd"])
def test_eps_of_an_optimizer_without_eps_raises(name):
    with pytest.raises(ValueError, match=f"has no effect with optimizer={name}"):
        optimizers.optimizer(name, 0.1, eps=1e-8)
    with pytest.raises(ValueError, match="optimizer=adm is unknown"):
        optimizers.optimizer("adm", 0.1)


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("cosine", lambda t: 0.3 * (1 + np.cos(np.pi * t)) / 2),
        ("linear", lambda t: 0.3 * (1 - t)),
        ("exponential", lambda t: 0.3 * 0.01**t),
    ],
)
@pytest.mark.parametrize("warmup", [0, 20])
def test_schedules_decay_over_the_steps_after_the_warm_up(name, at, warmup):
    found = optimizers.schedule(name, 0.3, 100, warmup)
    for step in (0, 1, 7, 19):
        expected = 0.3 * step / 20 if warmup else at(step / 100)
        np.testing.assert_allclose(found(step), expected, rtol=1e-5)
    for step in (20, 50, 99, 100):
        np.testing.assert_allclose(found(step), at((step - warmup) / (100 - warmup)), rtol=1e-5, atol=1e-8)


def test_constant_rate_is_a_number_and_its_warm_up_does_not_depend_on_the_steps():
    assert optimizers.schedule("constant", 0.3, 100) == 0.3
    a, b = (optimizers.schedule("constant", 0.3, steps, 10) for steps in (100, 1000))
    np.testing.assert_allclose([a(step) for step in (0, 5, 10, 500)], [0, 0.15, 0.3, 0.3], rtol=1e-6)
    assert [a(step) for step in range(30)] == [b(step) for step in range(30)]
    with pytest.raises(ValueError, match="warmup_steps=100 leaves none of 100 steps"):
        optimizers.schedule("cosine", 0.3, 100, 100)
    with pytest.raises(ValueError, match="schedule=cosin is unknown"):
        optimizers.schedule("cosin", 0.3, 100)


def test_large_gradients_are_skipped_and_counted():
    """Adam on gradients g_t is Adam on those of norm at most the limit; a non-finite one is not hidden."""
    gradients = [0.5, 3.0, -0.7, -9.0, 0.2]
    found, reference = optimizers.optimizer("adam", 0.1, skip=2.0), optax.adam(0.1)
    params = {"a": jnp.array([1.0, 0.0])}
    pair = [(tx, params, tx.init(params)) for tx in (found, reference)]
    for g in gradients:
        for i, (tx, now, state) in enumerate(pair):
            if i == 0 or abs(g) < 2:
                updates, state = tx.update({"a": jnp.array([0.6 * g, 0.8 * g])}, state, now)
                now = optax.apply_updates(now, updates)
            pair[i] = (tx, now, state)
    assert equal(pair[0][1]["a"], pair[1][1]["a"])
    assert all(map(equal, *map(jax.tree.leaves, (pair[0][2].inner, pair[1][2]))))
    assert pair[0][2].skipped == 2
    updates, _ = found.update({"a": jnp.array([np.nan, 1.0])}, pair[0][2], params)
    assert np.isnan(updates["a"]).any()


def test_skipping_looks_at_the_norm_before_clipping():
    clipped = optimizers.optimizer("sgd", 0.1, clip=1.0, skip=4.0)
    small, large = (jnp.array([norm, 0.0]) for norm in (3.0, 5.0))
    state = clipped.init(small)
    np.testing.assert_allclose(clipped.update(small, state)[0], [-0.1, 0], rtol=1e-6)
    np.testing.assert_array_equal(clipped.update(large, state)[0], [0, 0])


def test_fraction_of_skipped_steps_is_a_metric_of_training():
    """A limit of 1e-6 skips every step; an experiment with its own optimizers cannot skip any."""
    x = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1)).astype(np.uint8)
    fields = {"hidden": (), "latent": 2, "epochs": 1, "batch_size": 10, "progress": False, "test": 0, "ema": 0.5}
    train = next(line for line in jaxae.fit("dense", x, skip=1e-6, **fields).history if line["split"] == "train")
    assert train["skipped"] == 1
    with pytest.raises(ValueError, match="skip=2 has no effect: the experiment has an optimizer of its own; omit it"):
        jaxae.fit("dense", x, skip=2.0, optimizer=optax.sgd(0.1), **fields)


def test_averaged_parameters_are_the_exponentially_weighted_sum_of_all_previous_ones():
    """d^n p_0 + (1 - d) sum_i d^(n - i) p_i in evaluation; training is unchanged."""

    def loss(variables, batch, key):
        return {"loss": batch.repeat(jnp.sum((variables["params"]["a"] - 1) ** 2))}, {}

    plain = descend(loss, optax.sgd(0.1))
    transition, b = averaged(plain, 0.7), batch(jnp.zeros((4, 1)))
    params = {"a": jnp.array([3.0, -1.0])}
    state, other = (State(jnp.int32(0), params, t.init(params), {}) for t in (transition, plain))
    path = [np.asarray(params["a"])]
    for _ in range(5):
        (state, _), (other, _) = transition.step(state, b, new_key()), plain.step(other, b, new_key())
        path.append(np.asarray(other.params["a"]))
        assert equal(state.params, other.params)
    expected = 0.7**5 * path[0] + 0.3 * sum(0.7 ** (5 - i) * path[i] for i in range(1, 6))
    np.testing.assert_allclose(state.variables["params"]["a"], expected, rtol=1e-6)
    assert isinstance(state.opt_state, Averaged)
    for decay in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match="ema"):
            averaged(plain, decay)


@pytest.mark.slow
def test_averaged_parameters_are_evaluated_saved_and_loaded(tmp_path):
    x = jaxae.data.load("digits").train.x[:100]
    fields = {"epochs": 3, "hidden": (8,), "batch_size": 32, "progress": False, "test": 0, "figures": False}
    model = jaxae.fit(dense, x, ema=0.8, workdir=tmp_path, **fields)
    plain = jaxae.fit(dense, x, **fields)
    for mine, other in zip(*map(jax.tree.leaves, (model.state.params, plain.state.params)), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)  # two programs may round differently
    largest = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (model.params, plain.params)), strict=True)]
    assert min(largest) > 1e-3
    np.testing.assert_allclose(model.evaluate(x)["loss"], model.history[-1]["loss"], rtol=1e-5)
    np.testing.assert_allclose(model.history[-2]["loss"], plain.history[-2]["loss"], rtol=1e-6)  # in training
    assert equal(jaxae.load(tmp_path).params, model.params)


@pytest.mark.parametrize(
    "fields",
    [
        {"ema": 0.9, "seeds": 2, "clip": 0.1, "weight_decay": 0.1, "warmup_steps": 3, "schedule": "cosine"},
        *(pytest.param({"optimizer": name}, marks=pytest.mark.slow) for name in NAMES),
        *(pytest.param({"schedule": name}, marks=pytest.mark.slow) for name in ("cosine", "exponential", "linear")),
    ],
    ids=str,
)
def test_resumed_training_is_bit_exact_with_every_optimizer_and_schedule(fields):
    """It resumes from the middle of an epoch, from the bytes of a checkpoint."""
    x = jaxae.data.load("digits").train.x[:100]
    data = jaxae.data.from_arrays(x, test=0)
    config = dense.Config(hidden=(8,), batch_size=32, epochs=3, lr=1e-2, **fields)
    experiment = run.built(config, dense.build, data.info)
    options = {"epochs": 3, "batch_size": 32, "seeds": config.seeds, "every": 2}
    whole = list(jaxae.iterate(experiment, data, **options))
    middle = next(snapshot for snapshot in whole if snapshot.step == 4)
    resumed = list(jaxae.iterate(experiment, data, resume=jax.device_get((middle.state, middle.totals)), **options))
    assert equal(jax.device_get(resumed[-1].state), jax.device_get(whole[-1].state))
    assert equal(resumed[-1].test, whole[-1].test)


def test_experiments_have_the_optimizers_of_their_sources():
    info = jaxae.Info((28, 28, 1), 60_000)
    grads = {**GRADS, "a": jnp.array([1e-4, 0.3]), "b": jnp.array([-2.0, 1e-7]).reshape(1, 1, 1, 2)}
    cases = [
        (simple.Config(), optax.adadelta(1.0, rho=0.95, eps=1e-8)),
        (convolutional.Config(), optax.adadelta(1.0, rho=0.95, eps=1e-8)),
        (vae.Config(), optax.rmsprop(1e-3)),
        (dense.Config(), optax.adam(1e-3)),
        (iwae.Config(schedule="constant"), optax.adam(1e-3, eps=1e-4)),
    ]
    for config, reference in cases:
        found = run.optimizer(config, info)
        for a, b in zip(
            *(jax.tree.leaves(t.update(grads, t.init(PARAMS), PARAMS)[0]) for t in (found, reference)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"warmup_steps": 3}, "warmup_steps=3 has no effect with the experiment's own learning rate schedule; use 0"),
        ({"schedule": "cosine"}, "schedule=cosine has no effect with .* own learning rate schedule; use constant"),
    ],
)
def test_schedule_fields_raise_with_a_custom_schedule(fields, said):
    own = optax.constant_schedule(0.1)
    with pytest.raises(ValueError, match=f"^{said}$"):
        run.optimizer(dense.Config(**fields), jaxae.Info((2, 2, 1), 100), own)
    run.optimizer(dense.Config(), jaxae.Info((2, 2, 1), 100), own)


def test_warm_up_of_the_schedule_of_iwae_raises():
    info = jaxae.Info((2, 2, 1), 100)
    with pytest.raises(ValueError, match="warmup_steps=3 has no effect"):
        iwae.build(iwae.Config(warmup_steps=3), info)
    iwae.build(iwae.Config(warmup_steps=3, schedule="cosine"), info)


def test_fingerprint_of_a_transformation_depends_on_its_computation():
    same = {optimizers.fingerprint(optax.adam(1e-3)) for _ in range(2)}
    others = [optax.adam(2e-3), optax.adamw(1e-3), optax.adam(optax.cosine_decay_schedule(1e-3, 10)), optax.sgd(1e-3)]
    assert len(same) == 1
    assert len(same | {optimizers.fingerprint(other) for other in others}) == 5
