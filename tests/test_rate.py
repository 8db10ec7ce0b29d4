import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import apply, batch, equal, evaluated, new_key
from jaxae import data
from jaxae.core import divergences, kl_term, reduction
from jaxae.core.batch import AXIS, Layout
from jaxae.core.step import descend
from jaxae.core.types import Examples, Info, State
from jaxae.experiments import beta_vae, binary, factor_vae, flow_vae, infovae, tcvae, vampprior
from jaxae.experiments import iwae as iwae_experiment
from jaxae.experiments import vae as experiment
from jaxae.training import epoch
from jaxae.variants import iwae, vae
from test_vae import means, small

KL = jnp.asarray(np.random.default_rng(0).exponential(1.0, (6, 4)), jnp.float32)
SIX = batch(np.zeros((6, 2), np.float32))


def test_kl_terms_against_numpy():
    np.testing.assert_allclose(kl_term.weighted(3.0)(KL, SIX), 3 * KL.sum(1), rtol=1e-6)
    assert (KL.sum(1) < 4).any()
    assert (KL.sum(1) > 4).any()
    np.testing.assert_allclose(kl_term.capacity(10.0, 4.0)(KL, SIX), 10 * np.abs(KL.sum(1) - 4), rtol=1e-5)
    of_batch = np.full(6, 10 * abs(KL.sum(1).mean() - 4))
    np.testing.assert_allclose(kl_term.capacity(10.0, 4.0, "batch")(KL, SIX), of_batch, rtol=1e-5)
    free = 2 * np.maximum(0.7, KL.mean(0)).sum()
    assert free < 0.95 * 2 * np.maximum(0.7, KL).sum(1).mean()  # differs from the mean of maxima
    np.testing.assert_allclose(kl_term.free_bits(2.0, 0.7)(KL, SIX), np.full(6, free), rtol=1e-6)


def test_weights_may_be_functions_of_the_training_step():
    at = SIX.replace(step=jnp.int32(7))
    np.testing.assert_allclose(kl_term.weighted(lambda step: 0.1 * step)(KL, at), 0.7 * KL.sum(1), rtol=1e-6)
    found = kl_term.capacity(lambda step: 2.0 * step, lambda step: 0.5 * step)(KL, at)
    np.testing.assert_allclose(found, 14 * np.abs(KL.sum(1) - 3.5), rtol=1e-5)
    found = kl_term.capacity(lambda step: 2.0 * step, lambda step: 0.5 * step, "batch")(KL, at)
    np.testing.assert_allclose(found, np.full(6, 14 * abs(KL.sum(1).mean() - 3.5)), rtol=1e-5)
    found = kl_term.free_bits(lambda step: 0.1 * step, 0.7)(KL, at)
    np.testing.assert_allclose(found, np.full(6, 0.7 * np.maximum(0.7, KL.mean(0)).sum()), rtol=1e-6)


def test_scaled_multiplies_numbers_and_schedules():
    assert kl_term.scaled(3.0, 0.5) == 1.5
    np.testing.assert_allclose(kl_term.scaled(3.0, lambda step: 0.1 * step)(jnp.int32(4)), 1.2, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, lambda kl: 1.5 * kl.sum(1)),
        ({"target": 4.0}, lambda kl: 3 * np.abs(kl.sum(1) - 2)),
        ({"target": 4.0, "of": "batch"}, lambda kl: np.full(6, 3 * np.abs(kl.sum(1).mean() - 2))),
        ({"free": 0.7}, lambda kl: np.full(6, 1.5 * np.maximum(0.7, kl.mean(0)).sum())),
    ],
)
def test_warm_up_multiplies_the_capacity_or_the_kl_weight(fields, expected):
    at = SIX.replace(step=jnp.int32(5))
    found = kl_term.rate(3.0, kl_term.warmup(2.0, 1, 50, 10), **fields)(KL, at)
    np.testing.assert_allclose(found, expected(np.asarray(KL)), rtol=1e-5)


def test_warm_up_lasts_its_epochs_and_cycles():
    assert kl_term.warmup(0.0, 1, 100, 10) == 1
    for cycles, at in ((1, {0: 0, 10: 0.5, 20: 1, 50: 1}), (2, {0: 0, 4: 0.8, 8: 1, 12: 0.4, 25: 1})):
        weight = kl_term.warmup(2.0, cycles, 100, 10)
        np.testing.assert_allclose([weight(jnp.int32(step)) for step in at], list(at.values()), atol=1e-6)


def test_warm_up_ends_after_its_examples_if_the_last_batch_of_an_epoch_is_smaller():
    """1,617 examples in batches of 1,024: ten epochs are 15.8 steps."""
    weight = kl_term.warmup(10.0, 1, 1617, 1024)
    found = [weight(jnp.int32(step)) for step in (0, 8, 15, 16)]
    np.testing.assert_allclose(found, [0, 8 / 15.791, 15 / 15.791, 1], rtol=1e-4)


@pytest.mark.parametrize(("epochs", "cycles"), [(0.34, 10), (0.76, 6), (3.0, 7), (10.0, 4)])
def test_cyclical_weight_is_exact_at_every_step(epochs, cycles):
    """The first step of a cycle has the weight of its beginning, not of the previous cycle's end."""
    period = Fraction(str(epochs)) * 1000 / 10 / cycles
    weight = jax.jit(jax.vmap(kl_term.warmup(epochs, cycles, 1000, 10)))
    steps = range(int(period * cycles) + 3)
    exact = [1.0 if step >= period * cycles else min(float(step / period % 1) * 2, 1) for step in steps]
    np.testing.assert_allclose(weight(jnp.asarray(steps)), exact, atol=1e-5)


def test_kl_below_the_free_bits_has_no_gradient():
    """Free bits apply to each latent dimension, for its mean KL over the batch."""
    least = float(np.sort(KL.mean(0))[1:3].mean())  # between the KL of the second and of the third dimension
    slope = jax.grad(lambda kl: kl_term.free_bits(1.5, least)(kl, SIX).mean())(KL)
    expected = np.where(KL.mean(0) > least, 1.5 / 6, 0)
    np.testing.assert_allclose(slope, np.tile(expected, (6, 1)), rtol=1e-6)
    assert 0 < (expected > 0).sum() < 4


@pytest.mark.parametrize(("of", "target"), [("example", 4.0), ("batch", 4.0), ("batch", 6.0)])
def test_gradient_of_the_capacity_has_the_sign_of_the_difference(of, target):
    """For the mean over the batch, all examples have the same sign."""
    totals = np.asarray(KL.sum(1))
    assert (totals < 4).any()
    assert 4 < totals.mean() < 6
    difference = totals - target if of == "example" else np.full(6, totals.mean() - target)
    slope = jax.grad(lambda kl: kl_term.capacity(2.5, target, of)(kl, SIX).mean())(KL)
    np.testing.assert_allclose(slope, np.tile(2.5 * np.sign(difference)[:, None] / 6, (1, 4)), rtol=1e-6)


OF_BATCH = {
    "free bits": (kl_term.free_bits(1.5, 1.0), lambda kl: 1.5 * np.maximum(1.0, kl.mean(0)).sum()),
    "capacity": (kl_term.capacity(2.5, 3.0, "batch"), lambda kl: 2.5 * abs(kl.sum(1).mean() - 3)),
}


@pytest.mark.parametrize("name", OF_BATCH)
def test_kl_terms_of_the_batch_are_those_of_the_global_batch_without_padding(name):
    """Values and gradients on two devices equal those on one."""
    rate, expected = OF_BATCH[name]

    @jax.jit
    def descent(part):
        def loss(params, b):
            return {"loss": rate(params["scale"] * b.x, b)}, {}

        slope, metrics, _ = reduction.gradient(loss, {"scale": jnp.ones((1, 4))}, part)
        return slope["scale"], metrics["loss"]

    whole = batch(KL)
    shares = jax.tree.map(lambda a: a.reshape(2, 3, *a.shape[1:]), whole.replace(step=None))
    slope, value = descent(whole)
    on_device = jax.vmap(lambda share: descent(share.replace(step=jnp.int32(0), layout=Layout(AXIS))), axis_name=AXIS)
    slopes, values = jax.jit(on_device)(shares)
    np.testing.assert_allclose(value, expected(KL), rtol=1e-6)
    np.testing.assert_allclose(values, [value, value], rtol=1e-6)
    np.testing.assert_allclose(slopes, np.stack([slope, slope]), rtol=1e-5)
    assert abs(np.asarray(slope)).max() > 0.1
    padded = batch(np.zeros((6, 2), np.float32), weight=[1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(rate(KL, padded), np.full(6, expected(KL[:4])), rtol=1e-6)


@pytest.mark.parametrize("name", OF_BATCH)
def test_kl_terms_of_the_batch_reject_a_microbatch(name):
    with pytest.raises(ValueError, match="needs the global batch"):
        OF_BATCH[name][0](KL, SIX.replace(layout=Layout(partial=True)))


def test_cyclical_weight_rises_in_the_first_half_of_each_cycle():
    """Fu et al. 2019, figure 1: four cycles, then 1."""
    weight = kl_term.cyclical(400.0, 4)
    at = {0: 0, 25: 0.5, 50: 1, 99: 1, 100: 0, 110: 0.2, 350: 1, 399: 1, 400: 1, 1000: 1}
    np.testing.assert_allclose([weight(jnp.int32(step)) for step in at], list(at.values()), atol=1e-6)


def test_one_cycle_that_rises_throughout_is_a_linear_warm_up():
    ours, theirs = kl_term.cyclical(70.0, 1, rising=1.0), optax.linear_schedule(0.0, 1.0, 70)
    for step in (0, 1, 33, 69, 70, 71, 500):
        np.testing.assert_allclose(ours(jnp.int32(step)), theirs(step), atol=1e-6)


def posterior_kl(model, params, x):
    return np.asarray(jax.jit(divergences.kl_normal)(apply(model, {"params": params}, x, method="posterior")))


def test_kl_weighting_changes_only_the_loss():
    model, params, x = small()
    plain, _ = evaluated(vae.loss(model), {"params": params}, batch(x))
    found, _ = evaluated(vae.loss(model, rate=kl_term.capacity(5.0, 3.0)), {"params": params}, batch(x))
    for name in ("reconstruction", "kl", "bce", "mse"):
        assert equal(found[name], plain[name])
    kl = posterior_kl(model, params, x)
    np.testing.assert_allclose(found["loss"] - found["reconstruction"], 5 * np.abs(kl - 3), rtol=1e-4)


def test_scheduled_weight_equals_a_constant_weight_of_each_step():
    """The same holds for several seeds."""
    model, params, x = small()

    def with_weight(weight):
        return descend(vae.loss(model, rate=kl_term.weighted(weight)), optax.adam(0.1))

    transition = with_weight(lambda step: 0.1 * step)
    step = jax.jit(transition.step)
    constant = jax.jit(lambda weight, *arguments: with_weight(weight).step(*arguments))
    state = by_hand = State(jnp.int32(0), params, transition.init(params), {})
    seen = []
    for i in range(3):
        examples = batch(x).replace(step=jnp.int32(i))
        state, metrics = step(state, examples, jax.random.fold_in(new_key(), i))
        by_hand, _ = constant(jnp.float32(0.1 * i), by_hand, batch(x), jax.random.fold_in(new_key(), i))
        seen.append(float(metrics["loss"] - metrics["reconstruction"]) / float(metrics["kl"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, by_hand.params)
    np.testing.assert_allclose(seen, [0, 0.1, 0.2], atol=1e-5)
    two = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    keys = jax.random.split(new_key(), 2)
    examples = batch(x).replace(step=jnp.int32(3))
    seeds, _ = jax.jit(jax.vmap(transition.step, in_axes=(0, None, 0)))(two, examples, keys)
    one, _ = step(state, examples, jax.random.split(new_key(), 2)[1])
    np.testing.assert_allclose(
        *(jax.tree.leaves(s.params["encoder"])[0] for s in (jax.tree.map(lambda a: a[1], seeds), one)), rtol=1e-4
    )


SHAPE = (3, 3, 1)
INFO = Info(SHAPE, 100)  # 10 steps per epoch
X = np.asarray(jax.random.uniform(jax.random.key(5), (10, *SHAPE)))


def trained(module, fields, steps):
    """The experiment that `build` returns, its parameters, and the metrics of these training steps."""
    config = dataclasses.replace(module.Config(batch_size=10, hidden=(5,)), **fields)
    built = module.build(config, INFO)
    params = jax.jit(built.model.init)(new_key(), jnp.asarray(X))["params"]
    one = epoch.step(built.train, SHAPE, 10, lambda a: a, Layout())
    data = Examples(jnp.asarray(X.reshape(10, -1)), jnp.zeros(10, jnp.int32))

    @jax.jit
    def metrics(step):
        state = State(step, params, built.train.init(params), {})
        return one(state, data, jnp.arange(10), new_key(), jnp.int32(0))[1]

    return built, params, [jax.tree.map(np.asarray, metrics(jnp.int32(step))) for step in steps]


@pytest.mark.parametrize(
    ("fields", "step", "expected"),
    [
        ({}, 0, lambda kl: kl),
        ({"kl_weight": 3.0}, 0, lambda kl: 3 * kl),
        ({"kl_weight": 3.0, "kl_warmup": 2.0}, 10, lambda kl: 1.5 * kl),
        ({"kl_weight": 3.0, "kl_warmup": 0.5}, 4, lambda kl: 2.4 * kl),
        ({"kl_weight": 3.0, "kl_warmup": 2.0, "kl_cycles": 2}, 15, lambda kl: 3 * kl),
        ({"kl_weight": 3.0, "kl_warmup": 2.0, "kl_cycles": 2}, 12, lambda kl: 1.2 * kl),
        ({"kl_weight": 9.0, "capacity": 8.0, "kl_warmup": 2.0}, 5, lambda kl: 9 * np.abs(kl - 2)),
        ({"kl_weight": 9.0, "capacity": 8.0}, 5, lambda kl: 9 * np.abs(kl - 8)),
        ({"kl_weight": 9.0, "capacity": 0.2, "capacity_of": "batch"}, 5, lambda kl: 9 * np.abs(kl.mean() - 0.2)),
        ({"free_bits": 50.0}, 3, lambda kl: np.full_like(kl, 2 * 50)),
        ({"kl_weight": 3.0, "kl_warmup": 2.0, "free_bits": 50.0}, 5, lambda kl: np.full_like(kl, 0.75 * 2 * 50)),
    ],
)
def test_fields_set_the_kl_term_of_the_training_loss(fields, step, expected):
    built, params, (metrics,) = trained(experiment, fields, [step])
    kl = posterior_kl(built.model, params, X)
    np.testing.assert_allclose(metrics["loss"] - metrics["reconstruction"], expected(kl).mean(), rtol=1e-4, atol=1e-5)
    tested = means(built.evaluate, params, batch(X))
    np.testing.assert_allclose(tested["loss"], tested["reconstruction"] + tested["kl"], rtol=1e-6)


def weighed_kl(m, w):
    return w * 3.0 * m["kl"]


EXPERIMENTS = {
    "vae": (experiment, {"kl_weight": 3.0}, weighed_kl),
    "binary": (binary, {"kl_weight": 3.0}, weighed_kl),
    "beta_vae": (beta_vae, {"kl_weight": 3.0}, weighed_kl),
    "factor_vae": (
        factor_vae,
        {"kl_weight": 3.0, "gamma": 7.0, "discriminator": (5,)},
        lambda m, w: w * 3.0 * m["kl"] + 7 * m["total_correlation"],
    ),
    "tcvae": (
        tcvae,
        {"beta": 4.0},
        lambda m, w: w * (m["mutual_information"] + 4 * m["total_correlation"] + m["dimension_wise_kl"]),
    ),
    "infovae": (
        infovae,
        {"kl_weight": 0.4, "mmd_weight": 900.0},
        lambda m, w: w * 0.4 * m["kl"] + 900 * m["mmd"],
    ),
    "vampprior": (vampprior, {"components": 4}, lambda m, w: w * m["kl"]),
    "flow_vae": (flow_vae, {"prior_flow": "maf"}, lambda m, w: w * m["kl"]),
}
WARMUPS = {
    "linear": ({"kl_warmup": 2.0}, {0: 0, 5: 0.25, 13: 0.65, 20: 1, 77: 1}),
    "cyclical": ({"kl_warmup": 2.0, "kl_cycles": 2}, {3: 0.6, 8: 1, 12: 0.4, 25: 1}),
}


def test_kl_warm_up_with_kl_weight_0_raises():
    with pytest.raises(ValueError, match="kl_warmup=5 has no effect with kl_weight=0; omit it"):
        infovae.build(infovae.Config(kl_warmup=5.0), data.Info((4, 4, 1), 100))


@pytest.mark.parametrize(
    ("name", "warmup"),
    [
        *((name, "linear") for name in ("vae", "factor_vae", "infovae", "vampprior")),
        ("tcvae", "cyclical"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("binary", "linear"),
                ("beta_vae", "linear"),
                ("tcvae", "linear"),
                ("infovae", "cyclical"),
                ("flow_vae", "linear"),
            )
        ),
    ],
)
def test_training_loss_is_the_weighted_sum_of_its_terms_during_warm_up(name, warmup):
    """The evaluation loss is the negative ELBO, with weight 1 at every step."""
    module, fields, expected = EXPERIMENTS[name]
    more, weights = WARMUPS[warmup]
    built, params, found = trained(module, {**fields, **more}, weights)
    for (step, weight), metrics in zip(weights.items(), found, strict=True):
        known = {term: np.float64(value) for term, value in metrics.items()}
        extra = known["loss"] - known["reconstruction"]
        np.testing.assert_allclose(extra, expected(known, weight), rtol=1e-4, atol=2e-5, err_msg=f"step {step}")
    tested = means(built.evaluate, params, batch(X).replace(step=jnp.int32(3)))
    np.testing.assert_allclose(tested["loss"], tested["reconstruction"] + tested["kl"], rtol=1e-5)


def test_training_loss_of_iwae_is_the_bound_with_the_kl_weight_of_the_step():
    more, weights = WARMUPS["linear"]
    built, params, found = trained(iwae_experiment, {"samples": 3, "latent": 2, **more}, weights)

    @jax.jit
    def reference(weight, key):
        return means(iwae.loss(built.model, 3, kl_weight=weight), params, batch(X), key)

    for (step, weight), metrics in zip(weights.items(), found, strict=True):
        expected = reference(jnp.float32(weight), jax.random.fold_in(new_key(), step))
        np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(metrics["elbo"], expected["elbo"], rtol=1e-5)
    tested = means(built.evaluate, params, batch(X).replace(step=jnp.int32(3)))
    np.testing.assert_allclose(tested["loss"], reference(jnp.float32(1), new_key())["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"capacity": 1.0, "free_bits": 2.0}, "capacity=1.0 excludes free_bits=2.0; choose one of the two"),
        ({"capacity_of": "batch"}, "capacity_of=batch needs a target of the KL term; set capacity=NATS"),
        ({"kl_cycles": 3}, "kl_cycles=3 needs a KL warm-up; set kl_warmup=EPOCHS"),
    ],
)
def test_contradictory_fields_raise(fields, says):
    with pytest.raises(ValueError, match=says):
        experiment.build(experiment.Config(**fields), INFO)
