"""Sparse autoencoders: losses and gradients against NumPy, constraints, dead latents, folding."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize

import jaxae
from conftest import batch, equal, new_key
from jaxae import data
from jaxae.core.batch import Layout
from jaxae.core.reduction import gradient
from jaxae.core.step import descend
from jaxae.core.types import Scale, State
from jaxae.experiments import gated as gated_experiment
from jaxae.experiments import jump_relu as jump_relu_experiment
from jaxae.experiments import l1, matching_pursuit, matryoshka, topk
from jaxae.run import dictionary as run_dictionary
from jaxae.training.trained import Trained
from jaxae.variants import constraints, dead_latents, dictionary_learning
from jaxae.variants.dictionary import Rule, SparseAutoencoder, Start
from jaxae.variants.folding import fold, unfold
from jaxae.variants.gated import Gated
from jaxae.variants.jump_relu import JumpReLU, jump_relu, step
from jaxae.variants.matching_pursuit import MatchingPursuit
from jaxae.variants.top_k import BatchTopK, TopK, is_largest

B, D, N = 6, 4, 7
SCALE, MULTIPLIER, THRESHOLD = 1.7, 1.3, 0.4
RULES = {
    "l1": Rule(),
    "top_k": TopK(2),
    "batch_top_k": BatchTopK(2),
    "jump_relu": JumpReLU(0.3, bandwidth=2.4),
    "gated": Gated(),
    "matching_pursuit": MatchingPursuit(3),
}
X = np.random.default_rng(0).normal(size=(B, D)) + 0.5
INPUTS = jnp.asarray(X, jnp.float32)
DEAD = np.array([0, 1, 0, 0, 0, 1, 1], bool)


def model(rule, rescaled=False):
    """A model with parameters and statistics that differ from their initial values."""
    net = SparseAutoencoder((D,), N, rule, rescaled=rescaled)
    rng = np.random.default_rng(1)
    variables = jax.eval_shape(net.init, new_key(), jnp.zeros((1, D)))
    params = {name: rng.normal(size=shape.shape) for name, shape in sorted(variables["params"].items())}
    if "threshold" in params:
        params["threshold"] = rng.uniform(0.2, 0.6, N)
    statistics = {"scale": SCALE, "multiplier": MULTIPLIER, "average": 0.2, "unused": np.where(DEAD, 9, 3)}
    if "threshold" in variables["statistics"]:
        statistics["threshold"] = THRESHOLD
    as_arrays = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    numbers = {name: jnp.asarray(value, variables["statistics"][name].dtype) for name, value in statistics.items()}
    return net, {"params": as_arrays, "statistics": numbers}


def kept(z, k):
    """The k largest entries of every row."""
    return z * (z >= np.sort(z, axis=1)[:, -k:][:, :1])


def pursued(v, rows, k):
    """Matching pursuit of every example, with rows of any norm."""
    codes = np.zeros((len(v), len(rows)))
    for residual, z in zip(v.copy(), codes, strict=True):
        for _ in range(k):
            cosines = rows @ residual / np.linalg.norm(rows, axis=1)
            best = np.argmax(cosines)
            value = max(rows[best] @ residual, 0) / (rows[best] @ rows[best])
            z[best] += value
            residual -= value * rows[best]
    return codes


def activations(rule, p, x):
    """Effective decoder, centred inputs, pre-activations and codes in training, in float64."""
    v = SCALE * x - p["decoder_bias"]
    norm = np.linalg.norm(p["decoder"], axis=1) if p["rescaled"] else np.ones(N)
    rows = p["decoder"] / norm[:, None]
    if isinstance(rule, MatchingPursuit):
        return rows, v, None, pursued(v, rows, rule.active)
    u = (v @ p["encoder"] + p["encoder_bias"]) * norm
    z = np.maximum(u, 0)
    if isinstance(rule, TopK):
        z = kept(z, 2)
    elif isinstance(rule, BatchTopK):
        z = kept(z.reshape(1, -1), 2 * len(x)).reshape(z.shape)
    elif isinstance(rule, JumpReLU):
        z = u * (u > p["threshold"] * norm)
    elif isinstance(rule, Gated):
        magnitude = (np.exp(p["magnitude"]) * (v @ p["encoder"]) + p["magnitude_bias"]) * norm
        z = (u > 0) * np.maximum(magnitude, 0)
    return rows, v, u, z


def reference(rule, p, frozen, levels, coefficient, auxiliary):
    """The terms in float64; quantities without a gradient are those of the parameters `frozen`."""
    rows, v, u, z = activations(rule, p, X)
    frozen_rows, frozen_v, _, frozen_z = activations(rule, frozen, X)
    edges = [0, *levels, N]
    terms = {"error": sum(np.sum((v - z[:, :b] @ rows[:b]) ** 2, axis=1) for b in edges[1:])}
    if isinstance(rule, Gated):
        terms["gate"] = np.sum((frozen_v - np.maximum(u, 0) @ frozen_rows) ** 2, axis=1)
    strength = coefficient * MULTIPLIER
    if isinstance(rule, JumpReLU):
        terms["penalty"] = strength * np.sum(z != 0, axis=1)
    elif isinstance(rule, Gated):
        terms["penalty"] = strength * np.sum(np.maximum(u, 0), axis=1)
    elif not isinstance(rule, TopK | BatchTopK | MatchingPursuit):
        terms["penalty"] = strength * np.sum(z, axis=1)
    if auxiliary:
        total = np.zeros(B)
        for a, b in pairwise(edges):
            dead = np.flatnonzero(DEAD[a:b]) + a
            if len(dead):
                k = D // 2
                own = u[:, dead]
                own = own if len(dead) <= k else own * (own >= np.sort(own, axis=1)[:, -k:][:, :1])
                residual = frozen_v - frozen_z[:, :b] @ frozen_rows[:b]
                total += min(len(dead) / k, 1) * np.sum((residual - own @ rows[dead]) ** 2, axis=1)
        terms["auxiliary"] = auxiliary * total
    terms["loss"] = sum(terms.values())
    terms["mse"] = np.mean((X - (z @ rows + p["decoder_bias"]) / SCALE) ** 2, axis=1)
    terms["active"] = np.sum(z != 0, axis=1)
    terms["dead"] = np.full(B, DEAD.mean())
    return terms


CASES = [
    *((name, rescaled, (), 0.0) for name in RULES for rescaled in (False, True) if name != "matching_pursuit"),
    ("matching_pursuit", False, (), 0.0),
    ("top_k", True, (), 0.3),
    ("batch_top_k", False, (2, 5), 0.3),
]


@pytest.mark.parametrize(("name", "rescaled", "levels", "auxiliary"), CASES)
def test_terms_and_gradient_against_numpy(name, rescaled, levels, auxiliary):
    """Gradients by central differences in float64; of JumpReLU with respect to a threshold, see below.

    Of the three dead latents two have the largest pre-activations, d / 2; with levels (2, 5, 7) one level has one dead
    latent, and another has two. Levels share the selection of the complete dictionary.
    """
    rule = RULES[name]
    net, variables = model(rule, rescaled)
    loss = dictionary_learning.loss(net, 0.7, levels=levels, auxiliary_weight=auxiliary, dead_after=9)
    found = jax.jit(lambda v: loss(v, batch(INPUTS), new_key())[0])(variables)
    grads = jax.jit(
        lambda p: gradient(lambda p, b: loss({**variables, "params": p}, b, new_key()), p, batch(INPUTS))[0]
    )(variables["params"])
    p = {key: np.asarray(value, np.float64) for key, value in variables["params"].items()} | {"rescaled": rescaled}
    expected = reference(rule, p, p, levels, 0.7, auxiliary)
    assert found.keys() == expected.keys()
    for term, value in expected.items():
        np.testing.assert_allclose(found[term], value, rtol=1e-5, atol=1e-5, err_msg=term)
    for key, grad in grads.items():
        if name == "jump_relu" and (key == "threshold" or rescaled):
            continue
        differences = np.zeros(p[key].shape)
        for place in np.ndindex(differences.shape):
            ends = []
            for move in (1e-6, -1e-6):
                moved = p[key].copy()
                moved[place] += move
                ends.append(reference(rule, {**p, key: moved}, p, levels, 0.7, auxiliary)["loss"].mean())
            differences[place] = (ends[0] - ends[1]) / 2e-6
        assert np.abs(differences).max() > 1e-3, key
        np.testing.assert_allclose(grad, differences, rtol=2e-4, atol=2e-4, err_msg=key)


def test_gradient_of_a_threshold_is_that_of_the_paper():
    """With respect to a threshold t: the mean of dL/dz (-t / e) K((u - t) / e) - c K((u - t) / e) / e."""
    rule = RULES["jump_relu"]
    net, variables = model(rule)
    loss = dictionary_learning.loss(net, 0.7)
    found = gradient(lambda p, b: loss({**variables, "params": p}, b, new_key()), variables["params"], batch(INPUTS))[
        0
    ]["threshold"]
    p = {key: np.asarray(value, np.float64) for key, value in variables["params"].items()} | {"rescaled": False}
    rows, v, u, z = activations(rule, p, X)
    slope, t = -2 * (v - z @ rows) @ rows.T, p["threshold"]
    within = np.abs(u - t) < 2.4 / 2
    assert 3 < within.sum() < within.size
    expected = np.mean(within * (-slope * t / 2.4 - 0.7 * MULTIPLIER / 2.4), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_step_and_jump_relu_have_the_straight_through_gradients_of_the_paper():
    rng = np.random.default_rng(2)
    u, t, pull = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((9, 5), (1, 5), (9, 5)))
    inside = 1.0 * (np.abs(np.asarray(u) - np.asarray(t)) < 0.45)
    for function, to_u, to_t in (
        (step, np.zeros((9, 5)), -inside / 0.9),
        (jump_relu, np.asarray(u > t), -np.asarray(t) / 0.9 * inside),
    ):
        found = jax.vjp(lambda u, t, f=function: f(u, t, 0.9), u, t)[1](pull)
        np.testing.assert_allclose(found[0], to_u * np.asarray(pull), rtol=1e-6)
        np.testing.assert_allclose(found[1][0], np.sum(to_t * np.asarray(pull), axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("coefficient", "ends"), [(2.0, {0.03}), (0.0, {0.0, 0.03})])
def test_adam_moves_a_small_threshold_by_the_learning_rate(coefficient, ends):
    """A threshold that is stored as a logarithm would move by a fiftieth of it. 0.01 - 0.02 is projected to 0."""
    net = SparseAutoencoder((D,), N, JumpReLU(0.01, 5.0))
    variables = net.init(new_key(), jnp.zeros((1, D)))
    loss = dictionary_learning.loss(net, coefficient)
    train = descend(loss, constraints.non_negative(optax.adam(0.02), "threshold"))
    params = variables.pop("params")
    state = State(jnp.int32(0), params, train.init(params), variables)
    np.testing.assert_allclose(params["threshold"], 0.01, rtol=1e-6)
    after = train.step(state, batch(INPUTS), new_key())[0].params["threshold"]
    assert set(np.round(np.asarray(after, np.float64), 4)) == ends


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rescaled", [False, True])
def test_folding_into_the_users_units_and_back_keeps_codes_and_reconstructions(name, rescaled):
    """With a norm factor, a decoder bias and decoder norms that differ from one."""
    rule = RULES[name]
    net, variables = model(rule, rescaled and not rule.tied)
    offset, factor = np.array([3.0, -1, 0.5, 2]), np.array([2.0] * 4 if rule.tied else [2.0, 0.5, 3, 1.5])
    scale = Scale(offset, factor)
    x = INPUTS
    raw = jnp.asarray(offset + factor * X, jnp.float32)
    codes = net.apply(variables, x, method="encode")
    decoded = offset + factor * np.asarray(net.apply(variables, codes, method="decode"))
    plain, folded = fold(net, variables, scale)
    assert not plain.rescaled
    np.testing.assert_allclose(plain.apply(folded, raw, method="encode"), codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(plain.apply(folded, codes, method="decode"), decoded, rtol=1e-4, atol=1e-4)
    assert float(folded["statistics"]["scale"]) == 1
    back = unfold(plain, folded, SCALE, scale)
    np.testing.assert_allclose(plain.apply(back, INPUTS, method="encode"), codes, rtol=1e-4, atol=1e-4)
    if not net.rescaled:
        for key, value in variables["params"].items():
            np.testing.assert_allclose(back["params"][key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert np.count_nonzero(codes) > 5


def test_units_that_differ_between_features_cannot_be_folded_into_tied_weights():
    with pytest.raises(ValueError, match="tied weights cannot be folded into units that differ between features"):
        fold(*model(MatchingPursuit(2)), Scale(np.zeros(4), np.arange(1.0, 5)))


@pytest.mark.parametrize("k", [1, 3, 8, 11])
def test_is_largest_against_numpy(k):
    """Values include negative and infinite ones, and rows may be shorter than k."""
    z = np.random.default_rng(3).normal(size=(30, 8)).astype(np.float32)
    z[:3, 2], z[3:5, 6], z[7, :6] = -np.inf, np.inf, -np.inf
    expected = z >= np.sort(z, axis=1)[:, -min(k, 8)][:, None]
    np.testing.assert_array_equal(is_largest(jnp.asarray(z), k), expected)


def test_batch_top_k_keeps_k_per_example_on_average_and_averages_the_least_kept_value():
    """At inference, every example keeps its codes above the threshold, whatever the rest of the batch."""
    rule = BatchTopK(2)
    net, variables = model(rule)
    v = net.apply(variables, net.apply(variables, INPUTS, method="scaled"), method="centred")
    weights = net.apply(variables, method="weights")
    z, statistics = rule.train(v, weights, batch(INPUTS))
    assert np.count_nonzero(z) == 2 * B
    assert len(set(np.count_nonzero(z, axis=1))) > 1
    np.testing.assert_allclose(statistics["threshold"], 0.99 * THRESHOLD + 0.01 * np.min(z[z > 0]), rtol=1e-6)
    first = weights._replace(own={"threshold": jnp.zeros(())})
    np.testing.assert_array_equal(rule.train(v, first, batch(INPUTS))[1]["threshold"], np.min(z[z > 0]))
    u = np.asarray(weights.preactivations(v))
    np.testing.assert_allclose(net.apply(variables, INPUTS, method="encode"), u * (u > THRESHOLD))
    nothing = weights._replace(encoder_bias=jnp.full(N, -100.0))
    z, statistics = rule.train(v, nothing, batch(INPUTS))
    assert not np.any(z)
    np.testing.assert_allclose(statistics["threshold"], THRESHOLD, rtol=1e-6)


def test_batch_top_k_rejects_microbatches():
    rule = BatchTopK(2)
    net, variables = model(rule)
    loss = dictionary_learning.loss(net)
    with pytest.raises(ValueError, match="gather needs the global batch"):
        loss(variables, batch(INPUTS, layout=Layout(partial=True)), new_key())


@pytest.mark.parametrize("name", RULES)
def test_unused_latents_are_counted_in_steps(name):
    net, variables = model(RULES[name])
    loss = dictionary_learning.loss(net, 0.7)
    new = loss(variables, batch(INPUTS), new_key())[1]["statistics"]["unused"]
    p = {key: np.asarray(value, np.float64) for key, value in variables["params"].items()} | {"rescaled": False}
    fired = activations(RULES[name], p, X)[3].any(0)
    assert 0 < fired.sum() <= N
    np.testing.assert_array_equal(new, np.where(fired, 0, np.where(DEAD, 10, 4)))


def test_dead_latents_have_a_gradient_from_the_auxiliary_loss_only():
    """The auxiliary loss trains only latents that have been unused for at least `dead_after` steps."""
    net, variables = model(TopK(2))
    bias = jnp.where(jnp.arange(N) < 3, -100.0, 0.0)
    params = {**variables["params"], "encoder_bias": bias}

    def slopes(unused, weight):
        loss = dictionary_learning.loss(net, auxiliary_weight=weight, dead_after=5)
        values = {**variables, "statistics": {**variables["statistics"], "unused": jnp.asarray(unused)}}
        x = batch(INPUTS)
        grads = gradient(lambda p, b: loss({**values, "params": p}, b, new_key()), params, x)[0]
        return np.abs(np.asarray(grads["encoder"])[:, :3]).max(0)

    assert not slopes([5, 4, 7, 0, 0, 0, 0], 0.0).any()
    np.testing.assert_array_equal(slopes([5, 4, 7, 0, 0, 0, 0], 0.5) > 0, [True, False, True])


def test_auxiliary_loss_of_one_seed_does_not_depend_on_the_others():
    """Under vmap one branch is computed for all seeds."""
    rng = np.random.default_rng(4)
    u, residual, rows = (jnp.asarray(rng.normal(size=(2, *shape)), jnp.float32) for shape in ((5, N), (5, D), (N, D)))
    dead = jnp.stack([jnp.asarray(DEAD), jnp.zeros(N, bool)])
    together = jax.vmap(dead_latents.auxiliary)(u, residual, rows, dead)
    apart = jnp.stack([dead_latents.auxiliary(*one) for one in zip(u, residual, rows, dead, strict=True)])
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert np.all(together[0] > 0)
    assert not np.any(together[1])
    program = str(jax.make_jaxpr(jax.vmap(dead_latents.auxiliary))(u, residual, rows, dead))
    assert "cond[" in program


def test_unit_norm_removes_the_gradient_along_a_row_and_keeps_the_norm():
    rng = np.random.default_rng(5)
    rows, grad = (jnp.asarray(rng.normal(size=(N, D)), jnp.float32) for _ in range(2))
    rows = rows / jnp.linalg.norm(rows, axis=1, keepdims=True)
    params, grads = {"decoder": rows, "other": jnp.ones(3)}, {"decoder": grad, "other": jnp.ones(3)}
    seen = []
    spy = optax.stateless(lambda g, _: seen.append(g) or jax.tree.map(lambda part: -0.5 * part, g))
    optimizer = constraints.unit_norm(spy)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    g, r = np.asarray(grad, np.float64), np.asarray(rows, np.float64)
    tangent = g - np.sum(g * r, axis=1, keepdims=True) * r
    np.testing.assert_allclose(seen[0]["decoder"], tangent, atol=1e-5)
    expected = r - 0.5 * tangent
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    moved = optax.apply_updates(params, updates)
    np.testing.assert_allclose(moved["decoder"], expected, atol=1e-6)
    np.testing.assert_allclose(moved["other"], 0.5)


def resampling(seed, unused, every=4, step=3):
    """A state before and after a step without a gradient, with resampling; errors of the examples."""
    net, variables = model(Gated())
    x = batch(INPUTS)
    optimizer = optax.adam(0.0)
    params = variables["params"]
    statistics = {**variables["statistics"], "unused": jnp.asarray(unused)}
    moments = jax.tree.map(jnp.ones_like, optimizer.init(params))
    state = State(jnp.int32(step), params, moments, {"statistics": statistics})

    def still(state, batch, key):
        return state, {"loss": jnp.zeros(())}

    train = dead_latents.resampled(descend(lambda *_: None, optimizer)._replace(step=still), net, every)
    decoded = net.apply({**variables}, INPUTS)
    error = SCALE**2 * np.sum((np.asarray(decoded) - X) ** 2, axis=1)
    return state, train.step(state, x, jax.random.key(seed))[0], error


def test_resampling_points_dead_latents_at_examples_and_resets_their_moments():
    """Norms are mean norms of the other latents, times 0.2 for the encoder; the other latents do not change."""
    unused = [4, 0, 9, 3, 0, 0, 0]
    before, after, _ = resampling(0, unused)
    dead = np.array(unused) >= 4
    old, new = before.params, {name: np.asarray(value) for name, value in after.params.items()}
    v = SCALE * X - np.asarray(old["decoder_bias"])
    directions = v / np.linalg.norm(v, axis=1, keepdims=True)
    norms = np.linalg.norm(old["decoder"], axis=1)[~dead].mean(), np.linalg.norm(old["encoder"], axis=0)[~dead].mean()
    chosen = [np.argmax(directions @ row) for row in new["decoder"][dead]]
    assert chosen[0] != chosen[1]
    np.testing.assert_allclose(new["decoder"][dead], norms[0] * directions[chosen], rtol=1e-5)
    np.testing.assert_allclose(new["encoder"].T[dead], 0.2 * norms[1] * directions[chosen], rtol=1e-5)
    for name in ("encoder_bias", "magnitude", "magnitude_bias"):
        assert not new[name][dead].any()
        np.testing.assert_array_equal(new[name][~dead], old[name][~dead])
    np.testing.assert_array_equal(new["decoder"][~dead], old["decoder"][~dead])
    for moment in (after.opt_state[0].mu, after.opt_state[0].nu):
        np.testing.assert_array_equal(moment["decoder"], np.repeat((~dead)[:, None], D, axis=1))
        np.testing.assert_array_equal(moment["encoder"], np.repeat((~dead)[None], D, axis=0))
        np.testing.assert_array_equal(moment["encoder_bias"], ~dead)
    np.testing.assert_array_equal(after.extra["statistics"]["unused"], np.where(dead, 0, unused))


@pytest.mark.parametrize(("unused", "step"), [([4, 0, 9, 3, 0, 0, 0], 2), ([3] * 7, 3)])
def test_resampling_changes_nothing_between_its_steps_and_without_dead_latents(unused, step):
    before, after, _ = resampling(0, unused, step=step)
    assert equal(before, after)


def test_examples_are_resampled_in_proportion_to_their_squared_loss():
    net, variables = model(Gated())
    state, _, error = resampling(0, [9, 0, 0, 0, 0, 0, 0])
    dead = jnp.arange(N) == 0

    def row(key):
        x = batch(INPUTS)
        return dead_latents.reinitialised(state, net, x, dead, key).params["decoder"][0]

    rows = np.asarray(jax.jit(jax.vmap(row))(jax.random.split(new_key(), 4000)))
    v = SCALE * X - np.asarray(variables["params"]["decoder_bias"])
    chosen = np.argmax(rows @ (v / np.linalg.norm(v, axis=1, keepdims=True)).T, axis=1)
    frequencies = np.bincount(chosen, minlength=B) / 4000
    expected = error**2 / np.sum(error**2)
    assert np.sum(expected > 0.02) >= 3
    np.testing.assert_allclose(frequencies, expected, atol=4 * 0.5 / np.sqrt(4000))


def test_controller_integrates_the_damped_log_ratio_within_limits_from_its_start():
    target = dictionary_learning.Target(8.0, start=10)

    def after(active, first=10):
        value, average = jnp.float32(2.0), jnp.float32(0.0)
        for place, count in enumerate(active):
            now = jnp.float32(count), target, jnp.float32(first + place)
            value, average = dictionary_learning.controlled(value, average, *now)
        return float(value)

    gain, damping = dictionary_learning.GAIN, dictionary_learning.DAMPING
    assert after([12.0] * 5) == pytest.approx(2 * np.exp(5 * gain * np.log(1.5)), rel=1e-5)
    assert after([6.0] * 4, first=8) == pytest.approx(2 * np.exp(2 * gain * np.log(0.75)), rel=1e-5)
    assert after([800.0] * 3) == pytest.approx(2 * np.exp(3 * gain), rel=1e-5)
    assert after([0.0] * 3) == pytest.approx(2 * np.exp(-3 * gain), rel=1e-5)
    errors = [np.log(10 / 8), np.log(9 / 8) + damping * np.log(9 / 10)]
    average = np.log(10) + dictionary_learning.RATE * np.log(9 / 10)
    errors.append(np.log(8 / 8) + damping * (np.log(8) - average))
    assert errors[2] < -0.5
    assert after([10.0, 9.0, 8.0]) == pytest.approx(2 * np.exp(gain * np.sum(errors)), rel=1e-6)


def test_warmup_rises_linearly_to_the_coefficient():
    rising = dictionary_learning.warmup(0.6, 20.0)
    np.testing.assert_allclose([rising(jnp.float32(s)) for s in (0, 5, 20, 50)], [0, 0.15, 0.6, 0.6], rtol=1e-6)
    assert dictionary_learning.warmup(0.6, 0.0) == 0.6


@pytest.mark.parametrize("centre", ["mean", "median", "zero"])
def test_start_has_the_norm_bias_and_scale_of_the_data(centre):
    """The encoder is the decoder's transpose; the geometric median is that of SciPy's minimum."""
    x = np.random.default_rng(6).exponential(size=(50, 3)).astype(np.float32) * [1, 2, 4]
    x = x.astype(np.float32)
    info = data.from_arrays(x, test=x, scale="none").info
    config = topk.Config(latent=9, active=2, decoder_bias=centre, decoder_norm="scaled", initial_norm=0.3)
    net = topk.build(config, info).model
    variables = net.init(new_key(), jnp.zeros((1, 3)))
    params = variables["params"]
    np.testing.assert_allclose(np.linalg.norm(params["decoder"], axis=1), 0.3, rtol=1e-6)
    np.testing.assert_array_equal(params["encoder"], params["decoder"].T)
    scaled = np.asarray(net.apply(variables, jnp.asarray(x), method="scaled"))
    assert np.linalg.norm(scaled, axis=1).mean() == pytest.approx(np.sqrt(3), rel=1e-5)
    exact = x.astype(np.float64)
    found = optimize.minimize(lambda c: np.linalg.norm(exact - c, axis=1).sum(), exact.mean(0), tol=1e-10).x
    expected = {"mean": x.mean(0), "median": found, "zero": np.zeros(3)}[centre]
    np.testing.assert_allclose(params["decoder_bias"] / variables["statistics"]["scale"], expected, atol=1e-3)


@pytest.fixture(scope="module")
def sparse():
    """Rows with few active directions."""
    rng = np.random.default_rng(7)
    return (((rng.random((200, 12)) < 0.2) * rng.exponential(size=(200, 12))) @ rng.normal(size=(12, 5))).astype(
        np.float32
    )


def test_loaded_top_k_model_keeps_k_latents_of_every_example(sparse, tmp_path):
    """The loaded model applies TopK, not ReLU alone, with the input scale and the codes of the saved model."""
    model = jaxae.fit("topk", sparse, test=0, epochs=1, batch_size=50, latent=16, active=3, progress=False)
    model.save(tmp_path / "model")
    codes = jaxae.load(tmp_path / "model").encode(sparse)
    assert np.count_nonzero(codes, axis=1).max() == 3
    np.testing.assert_array_equal(codes, model.encode(sparse))
    assert float(model.extra["statistics"]["scale"]) != 1
    found = model.experiment.measures["dictionary"](model, data.from_arrays(sparse, test=sparse))
    assert found["l1"] > 0


@pytest.mark.parametrize("norm", ["unit", "scaled"])
def test_l1_of_the_measures_is_in_units_of_the_data(norm):
    """Codes times the norms of the decoder's rows, each the change of the reconstruction by a code of 1."""
    experiment = l1.build(l1.Config(latent=N, decoder_norm=norm), data.Info((D,), 100, real=True))
    values, x = model(Rule(), norm == "scaled")[1], np.asarray(INPUTS)
    state = State(jnp.int32(0), values["params"], (), {"statistics": values["statistics"]})
    trained = Trained(experiment, state, (D,), range(1), scale=None, real=True, from_bytes=False)
    found = experiment.measures["dictionary"](trained, data.from_arrays(x, test=x, scale="none"))
    decoded = np.asarray(trained.decode(np.concatenate([np.zeros((1, N)), np.eye(N)]).astype(np.float32)))
    rows = np.linalg.norm(decoded[1:] - decoded[0], axis=1)
    assert found["l1"] == pytest.approx(np.mean(np.asarray(trained.encode(x)) @ rows), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("topk", {"active": 2}),
        ("batch_topk", {"active": 2}),
        ("matryoshka", {"active": 2, "levels": (4, 9)}),
        ("matching_pursuit", {"active": 2}),
        ("l1", {"target_active": 2.0}),
        ("gated", {"target_active": 2.0}),
        ("jump_relu", {"target_active": 2.0}),
    ],
)
def test_seed_of_a_population_equals_its_single_run(name, fields, sparse):
    """With an auxiliary loss, and unused latents, resampled, or a controller; codes are those of inference."""
    fields = {**fields, "epochs": 1, "batch_size": 10, "latent": 24, "lr": 1e-2, "dead_after": 2, "resample_every": 5}
    both = jaxae.fit(name, sparse, test=0, seeds=2, auxiliary=0.5, optimizer="sgd", progress=False, **fields)
    second = jaxae.fit(name, sparse, test=0, seed=1, auxiliary=0.5, optimizer="sgd", progress=False, **fields)
    statistics = both[1].extra["statistics"]
    assert np.any(statistics["unused"]) if "active" in fields else statistics["multiplier"] != 1
    for own, alone in zip(jax.tree.leaves(both[1].variables), jax.tree.leaves(second.variables), strict=True):
        np.testing.assert_allclose(own, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "fields", "says"),
    [
        (matryoshka, {"latent": 8, "levels": (4, 8)}, r"levels=\(4, 8\) must increase from at least 1, below latent=8"),
        (matryoshka, {"latent": 8, "levels": (4, 2)}, r"levels=\(4, 2\) must increase from at least 1, below latent=8"),
        (topk, {"latent": 8, "active": 9}, "active=9 must be at most latent=8"),
        (topk, {"decoder_norm": "scaled", "initial_norm": 0.0}, "initial_norm=0.0 must be above 0"),
        (topk, {"initial_norm": 3.0}, "initial_norm=3.0 has no effect with decoder_norm=unit; omit it"),
        (
            matching_pursuit,
            {"decoder_norm": "scaled"},
            "decoder_norm=scaled has no effect on MatchingPursuit, whose decoder rows have norm 1; omit it",
        ),
        (jump_relu_experiment, {"bandwidth": 0.0}, "bandwidth=0.0 must be above 0"),
        (l1, {"latent": 12, "target_active": 100.0}, "target_active=100.0 must be at most latent=12"),
        (l1, {"coefficient_warmup": 2.0}, "coefficient_warmup=2.0 must be at most 1"),
        (
            gated_experiment,
            {"coefficient_warmup": 1.0, "target_active": 3.0},
            "coefficient_warmup=1.0 must be below 1, since the controller of target_active=3.0 starts after it",
        ),
        (
            l1,
            {"coefficient": 0.0, "target_active": 3.0},
            "target_active=3.0 has no effect with coefficient=0.0; use a coefficient above 0",
        ),
    ],
)
def test_fields_out_of_range_or_without_effect_raise(module, fields, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        module.build(module.Config(**fields), data.Info((5,), 100))


@pytest.mark.parametrize(
    ("module", "fields"),
    [
        (topk, {"latent": 8, "active": 8}),
        (topk, {"decoder_norm": "scaled", "initial_norm": 3.0, "latent": 30}),
        (l1, {"latent": 12, "target_active": 12.0, "coefficient_warmup": 0.99}),
        (l1, {"coefficient_warmup": 1.0}),
        (l1, {"coefficient": 0.0}),
    ],
)
def test_fields_at_the_ends_of_their_ranges_are_accepted(module, fields):
    module.build(module.Config(**fields), data.Info((5,), 100))


def test_initial_values_of_a_saved_model_need_no_data():
    assert isinstance(run_dictionary.start(topk.Config(), data.Info((5,), 100), 0.1), Start)
