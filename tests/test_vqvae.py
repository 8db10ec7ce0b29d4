import dataclasses
from functools import partial
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import apply, batch, equal, evaluated, initial, new_key, trained
from jaxae import data, nets, run
from jaxae.core.batch import AXIS, Batch, Layout
from jaxae.core.reduction import gradient, sums
from jaxae.core.step import descend
from jaxae.core.types import Scale, State
from jaxae.experiments import vqvae as experiment
from jaxae.measure.codebook import usage
from jaxae.variants import quantize, vqvae
from jaxae.variants.quantize import codebook

K, Z = 5, 2


class Squares(nn.Module):
    """A nonlinear decoder: [B, 2, 2, Z] -> [B, 2, 2, 1]."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(1)(z**2)


def small(**fields):
    """A model, its variables and six images."""
    model = vqvae.VQVAE(nets.MLP((), (2, 2, Z), axes=3), Squares(), quantize.VQ(K, Z, **fields))
    x = jax.random.uniform(new_key(), (6, 2, 2, 1))
    return model, initial(model, x), x


def slope(loss, variables, given):
    """Gradient of the mean loss, means of the terms, and updates."""
    extra = {name: leaf for name, leaf in variables.items() if name != "params"}
    return gradient(lambda p, b: loss({"params": p, **extra}, b, new_key()), variables["params"], given)


def brute_force(z, codes):
    """argmin_k |z - e_k| in double precision."""
    z, codes = np.asarray(z, np.float64), np.asarray(codes, np.float64)
    return np.argmin(((z[..., None, :] - codes) ** 2).sum(-1), axis=-1)


def quantized(model, variables, x):
    """The encoder's vectors, their codes and the codebook rows of these, in NumPy."""
    z = apply(model.encoder, {"params": variables["params"]["encoder"]}, x)
    return [
        np.asarray(array) for array in (z, *(apply(model, variables, x, method=name) for name in ("encode", "indices")))
    ]


def test_nearest_codes_against_brute_force():
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(37, 8)).astype(np.float32)
    z = rng.normal(size=(20, 7, 7, 8)).astype(np.float32)
    nearest = jax.jit(codebook.nearest)
    assert np.array_equal(nearest(z, codes), brute_force(z, codes))
    assert np.array_equal(nearest(codes, codes), np.arange(37))
    assert np.array_equal(nearest(z[0, 0], np.repeat(codes[:1], 3, axis=0)), np.zeros(7))  # ties go to the first


def test_codes_are_rows_of_the_codebook_and_nothing_else_is_decoded():
    model, variables, x = small()
    z, _, rows = quantized(model, variables, x)
    codes = np.asarray(variables["codebook"]["codes"])
    assert np.array_equal(rows, brute_force(z, codes))
    assert len(np.unique(rows)) > 1
    encoded = apply(model, variables, x, method="encode")
    assert equal(encoded, codes[rows])
    assert equal(apply(model, variables, rows, method="embed"), encoded)
    _, logits = apply(model, variables, x)
    assert equal(apply(model, variables, encoded, method="decode"), nn.sigmoid(logits))
    far = apply(model, variables, 1e3 * encoded, method="decode")
    assert 0 <= far.min() < far.max() <= 1


def test_straight_through_has_the_value_of_q_and_passes_its_gradient_to_z():
    """The value is equal bit for bit; q has no gradient."""
    z, q = (np.asarray(jax.random.normal(jax.random.fold_in(new_key(), i), (4, 3))) * 10.0**i for i in (0, 3))
    assert equal(jax.jit(quantize.straight_through)(z, q), q)
    cubes = jax.grad(lambda z, q: jnp.sum(quantize.straight_through(z, q) ** 3), argnums=(0, 1))
    to_z, to_q = map(np.asarray, jax.jit(cubes)(z, q))
    assert equal(to_z, 3 * q**2)
    assert not to_q.any()


@pytest.mark.parametrize("fields", [{}, {"learned": True}, {"learned": True, "reinit_below": 0.1}])
def test_gradients_against_closed_forms(fields):
    """Encoder: the decoder's gradient at the codes plus 2 beta (z - e). Learned codebook: the sum of 2 (e - z)."""
    beta = 0.7
    model, variables, x = small(commitment=beta, **fields)
    grads = jax.jit(lambda: slope(vqvae.loss(model), variables, batch(x))[0])()
    z, e, rows = quantized(model, variables, x)

    def reconstruction(q):
        """The term, summed over the examples."""
        logits = Squares().apply({"params": variables["params"]["decoder"]}, q)
        return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x))

    to_z = np.asarray(jax.jit(jax.grad(reconstruction))(e)) + 2 * beta * (z - e)
    flat, inputs = to_z.reshape(6, -1), np.asarray(x).reshape(6, -1)
    np.testing.assert_allclose(grads["encoder"]["Dense_0"]["kernel"], inputs.T @ flat / 6, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grads["encoder"]["Dense_0"]["bias"], flat.mean(0), rtol=1e-4, atol=1e-6)
    assert np.abs(2 * beta * (z - e)).max() > 1e-2
    assert ("codebook" in grads) == bool(fields)
    if fields:
        expected = np.zeros((K, Z))
        np.add.at(expected, rows, 2 * (e - z))
        np.testing.assert_allclose(grads["codebook"], expected / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_loss_against_numpy(learned):
    model, variables, x = small(learned=learned, commitment=0.3)
    terms, updates = jax.jit(vqvae.loss(model))(variables, batch(x, training=False), new_key())
    assert updates == {}
    z, e, _ = quantized(model, variables, x)
    pixels = np.asarray(apply(model, variables, e, method="decode"), np.float64)
    target = np.asarray(x, np.float64)
    cross = -(target * np.log(pixels) + (1 - target) * np.log(1 - pixels)).sum((1, 2, 3))
    distance = ((z - e).astype(np.float64) ** 2).sum((1, 2, 3))
    assert terms.keys() == {"loss", "reconstruction", "quantization", "bce", "mse"}
    np.testing.assert_allclose(terms["loss"], cross + (0.3 + learned) * distance, rtol=1e-5)
    np.testing.assert_allclose(terms["reconstruction"], cross, rtol=1e-5)
    np.testing.assert_allclose(terms["quantization"], distance, rtol=1e-5)
    np.testing.assert_allclose(terms["bce"], cross / 4, rtol=1e-5)
    np.testing.assert_allclose(terms["mse"], ((pixels - target) ** 2).mean((1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_duplicated_batch_has_the_same_gradient_and_averages(learned):
    """Gradient, metrics and moving averages do not depend on the batch size."""
    model, variables, x = small(learned=learned, commitment=0.3, decay=0.9)
    run = jax.jit(lambda given: slope(vqvae.loss(model), variables, given))
    once, twice = (run(batch(array)) for array in (x, np.concatenate([x, x])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), once, twice)


def some(n, seed=0):
    """A codebook of K codes, the last one far from all vectors, and n examples of 3 x 2 vectors."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate([rng.normal(size=(K - 1, Z)), [[50.0, 50.0]]]).astype(np.float32)
    z = jnp.asarray(rng.normal(size=(n, 3, 2, Z)), jnp.float32)
    return {"params": {}, "codebook": {"codes": jnp.asarray(codes), "use": jnp.ones(K)}}, z


def tracked(variables, z, **fields):
    """Terms and updates of a step of a codebook of moving averages."""
    step = jax.jit(partial(quantize.VQ(K, Z, **fields).apply, mutable=["codebook"]))
    found, updates = step(variables, z, batch(z), new_key())
    return found.terms, updates


def test_moving_averages_against_numpy_over_three_steps():
    """Counts and sums are those of the paper; the last code is far from all vectors."""
    variables, _ = some(1)
    decay = 0.6
    counts = np.full(K, 4 * 6 / K)  # uniform usage in batches of 4
    codes = np.asarray(variables["codebook"]["codes"], np.float64)
    sums = counts[:, None] * codes
    for step in range(3):
        _, z = some(4, seed=step)
        rows = brute_force(z, codes)
        onehot = np.eye(K)[rows.reshape(-1)]
        n = onehot.sum(0)
        counts = decay * counts + (1 - decay) * n
        sums = decay * sums + (1 - decay) * onehot.T @ np.asarray(z, np.float64).reshape(-1, Z)
        codes = sums / counts[:, None]
        terms, updates = tracked(variables, z, decay=decay)
        variables |= updates
        np.testing.assert_allclose(variables["codebook"]["codes"], codes, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variables["codebook"]["use"], counts * K / 24, rtol=1e-5)
        shares = n[n > 0] / 24
        np.testing.assert_allclose(terms["perplexity"], np.full(4, np.prod(shares**-shares)), rtol=1e-5)
        np.testing.assert_allclose(terms["usage"], np.full(4, len(shares) / K))
    assert np.array_equal(variables["codebook"]["codes"][-1], [50, 50])


def test_default_decay_is_that_of_the_paper():
    variables, z = some(4)
    assert equal(tracked(variables, z), tracked(variables, z, decay=0.99))


def test_perplexity_and_usage_of_known_distributions():
    variables, _ = some(K)
    codes = np.asarray(variables["codebook"]["codes"])
    for rows, perplexity, share in (
        (np.zeros((K, 3, 2), int), 1, 1 / K),
        (np.tile(np.arange(K)[:, None, None], (1, 3, 2)), K, 1),
        (np.tile([[0, 1]] * 3, (K, 1, 1)), 2, 2 / K),
    ):
        terms, _ = tracked(variables, jnp.asarray(codes[rows]))
        np.testing.assert_allclose(terms["perplexity"], np.full(K, perplexity), rtol=1e-5)
        np.testing.assert_allclose(terms["usage"], np.full(K, share), rtol=1e-6)


def test_first_vectors_move_a_code_to_their_mean_and_an_unused_code_stays():
    variables, z = some(4)
    variables["codebook"]["use"] = jnp.zeros(K)
    rows = np.asarray(jax.jit(codebook.nearest)(z, variables["codebook"]["codes"]))
    codes = np.asarray(tracked(variables, z)[1]["codebook"]["codes"])
    for k in range(K - 1):
        np.testing.assert_allclose(codes[k], np.asarray(z)[rows == k].mean(0), rtol=1e-4)
    assert np.array_equal(codes[-1], [50, 50])


def is_a_row(row, table):
    return bool((np.asarray(table) == np.asarray(row)).all(-1).any())


@pytest.mark.parametrize("learned", [False, True])
def test_reinitialization_replaces_unused_codes_by_encoder_outputs(learned):
    model, variables, x = small(learned=learned, reinit_below=0.1)
    far = np.where(np.arange(K)[:, None] < 2, np.float32(40), np.float32(0))
    variables = jax.tree.map(np.asarray, variables)
    variables["codebook"] = {"codes": variables["codebook"]["codes"] + far, "use": np.ones(K, np.float32)}
    z, _, rows = quantized(model, variables, x)
    assert not np.isin(rows, (0, 1)).any()

    def book(updates):
        return updates["codebook"]["codes"] + variables["params"].get("codebook", 0.0)

    def after(below):
        other = model.clone(quantizer=quantize.VQ(K, Z, learned=learned, decay=0.5, reinit_below=below))
        return evaluated(vqvae.loss(other), variables, batch(x))[1]

    without, with_it = after(1e-9), after(0.51)
    dead = np.asarray(without["codebook"]["use"]) < 0.51
    assert dead[:2].all()
    assert not dead.all()
    assert equal(with_it["codebook"]["codes"][~dead], without["codebook"]["codes"][~dead])
    assert equal(with_it["codebook"]["use"], np.where(dead, np.float32(1), without["codebook"]["use"]))
    revived = np.asarray(book(with_it))[dead]
    if learned:  # the sum of two variables, so equal up to rounding
        distance = np.abs(revived[:, None] - z.reshape(1, -1, Z)).max(-1).min(1)
        assert distance.max() < 1e-5
    else:
        assert all(is_a_row(row, z) for row in revived)
    assert equal(after(0.49), without)  # one step with decay 0.5 does not reduce any usage below 0.5


@pytest.mark.parametrize("learned", [False, True])
def test_codebook_is_updated_in_training_only(learned):
    model, variables, x = small(learned=learned, decay=0.5, reinit_below=0.51)
    loss = vqvae.loss(model)
    terms, updates = jax.eval_shape(loss, variables, batch(x, training=False), new_key())
    assert updates == {}
    assert terms.keys() == {"loss", "reconstruction", "quantization", "bce", "mse"}
    more, updates = evaluated(loss, variables, batch(x))
    assert more.keys() == terms.keys() | {"perplexity", "usage"}
    assert np.any(updates["codebook"]["use"] != variables["codebook"]["use"])


def test_resampled_codes_differ_from_each_other():
    """They differ by more than rounding from other codes of the codebook, and from vectors sampled with them."""
    codes = np.float32([[1.0, 0.0], [0.0, 3.0]])
    fresh = np.float32([[0.0, 3.0], [2.0, 2.0], [1.0, 1e-6], [2.0, 2.0000002], [2.0, 2.1], [0.0, 0.0]])
    is_distinct = jax.jit(codebook.is_distinct)
    assert is_distinct(fresh, codes, np.ones(6, bool)).tolist() == [False, True, False, False, True, True]
    assert is_distinct(fresh, codes, np.arange(6) != 1).tolist() == [False, True, False, True, True, True]


def test_vectors_are_resampled_uniformly():
    vectors = jnp.arange(12.0).reshape(4, 3, 1)
    sampled = jax.jit(codebook.sampled, static_argnums=1)
    resampled = np.asarray(sampled(vectors.reshape(12, 1), 30_000, new_key()))[:, 0]
    counts = np.bincount(resampled.astype(int), minlength=12)
    assert abs(counts - 2500).max() < 4 * np.sqrt(2500)


@pytest.mark.parametrize("learned", [False, True])
def test_codebook_on_two_devices_equals_that_on_one(learned):
    """Terms, averages and re-initialisation; the codebooks stay equal if the devices' examples use different codes."""
    model, variables, x = small(learned=learned, commitment=0.3, decay=0.9, reinit_below=0.99)
    x = np.asarray(x) * np.repeat(np.float32([0.1, 1]), 3).reshape(6, 1, 1, 1)
    rows = quantized(model, variables, x)[2].reshape(2, -1)
    assert np.any(np.bincount(rows[0], minlength=K) != np.bincount(rows[1], minlength=K))
    loss = jax.jit(vqvae.loss(model))
    terms, updates = loss(variables, batch(x), new_key())

    def share(x, index):
        return loss(variables, Batch(x, index, jnp.ones(3), jnp.int32(0), layout=Layout(AXIS)), new_key())

    halves = x.reshape(2, 3, *x.shape[1:]), np.arange(6).reshape(2, 3)
    found, moved = jax.jit(jax.vmap(share, axis_name=AXIS))(*halves)
    found, updates = jax.tree.map(np.asarray, (found, updates))
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), updates)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, {name: term.ravel() for name, term in found.items()}, terms)
    jax.tree.map(close, moved, both)
    assert np.any(updates["codebook"]["use"] == 1)


@pytest.mark.parametrize("learned", [False, True])
def test_microbatches_equal_the_global_batch_without_batch_statistics(learned):
    """Microbatches are equal to the global batch in every evaluation, and in training if the codebook has no state."""
    model, variables, x = small(learned=learned, commitment=0.3, decay=0.9)
    assert ("codebook" in variables) == (not learned)
    loss = vqvae.loss(model)
    whole, parts = (batch(np.tile(x, (4, 1, 1, 1)), training=learned, layout=Layout(None, n)) for n in (1, 4))
    found, expected = (
        jax.jit(lambda given: sums(loss, variables, given, new_key()))(given) for given in (parts, whole)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    if learned:
        found, expected = (jax.jit(lambda given: slope(loss, variables, given))(given) for given in (parts, whole))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.parametrize("learned", [False, True])
def test_codebook_statistics_raise_in_microbatches(learned):
    model, variables, x = small(learned=learned, reinit_below=0.1)
    loss = vqvae.loss(model)
    with pytest.raises(ValueError, match=r"Batch.total needs the global batch, .* use accumulate=1"):
        jax.eval_shape(lambda given: slope(loss, variables, given), batch(x, layout=Layout(None, 2)))


def test_usage_and_perplexity_cover_the_codes_of_all_test_images():
    """Half of the vectors have code 0, a quarter code 1, and an eighth each codes 2 and 3, in sorted order; K is 10."""
    rows = np.repeat([0, 1, 2, 3], [2400, 1200, 600, 600]).reshape(2400, 2, 1).astype(np.float32)

    class Rows(nn.Module):
        codes: int = 10

        def setup(self):
            self.offset = self.variable("table", "offset", jnp.zeros, ())

        def __call__(self, x):
            return x + self.offset.value

        encode = __call__

        def indices(self, x):
            return self(x)[..., 0].astype(int)

        def decode(self, z):
            return z

    built = run.Experiment(Rows(), descend(lambda *_: ({}, {}), optax.sgd(1.0)), lambda *_: ({}, {}))
    of_all = trained(built, {}, {"table": {"offset": jnp.float32(3)}}, (2, 1))
    split = data.Split(rows, np.zeros(2400, np.int32))
    scaled = dataclasses.replace(of_all, real=True, scale=Scale(np.full(1, 5.0), np.full(1, 2.0)))
    for model in (of_all, scaled):  # a split is in model units
        found = usage(model, SimpleNamespace(test=split, classes=(), covariates=()))
        np.testing.assert_allclose(found["perplexity"], 2 ** (1 / 2 * 1 + 1 / 4 * 2 + 2 / 8 * 3), rtol=1e-6)
        assert found["usage"] == 4 / 10
        np.testing.assert_allclose(found["bits"], 2 * np.log2(10))


@pytest.mark.parametrize(
    ("fields", "collections"),
    [
        ({}, {"params", "codebook"}),
        ({"reinit_below": 0.0}, {"params", "codebook"}),
        ({"codebook": "gradient"}, {"params", "codebook"}),
        ({"codebook": "gradient", "reinit_below": 0.0}, {"params"}),
    ],
)
def test_model_has_the_collections_that_its_fields_need(fields, collections):
    built = experiment.build(experiment.Config(**fields), run.Info((28, 28, 1), 100))
    variables = jax.eval_shape(built.model.init, new_key(), jnp.zeros((1, 28, 28, 1)))
    assert variables.keys() == collections
    assert ("codebook" in variables["params"]) == ("codebook" in fields)


def test_decay_and_reinit_below_out_of_range_raise():
    with pytest.raises(ValueError, match="decay=1.0 must be below 1"):
        quantize.VQ(K, Z, decay=1.0)
    with pytest.raises(ValueError, match="reinit_below=1.0 must be below 1"):
        experiment.build(experiment.Config(reinit_below=1.0), run.Info((28, 28, 1), 100))


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_experiment_trains_with_the_values_of_its_fields(kind):
    """Commitment weight, decay and re-initialisation equal those of the loss of its model."""
    config = experiment.Config(
        filters=(2,), codes=K, latent=Z, codebook=kind, commitment=0.7, decay=0.6, reinit_below=0.65
    )
    built = experiment.build(config, run.Info((4, 4, 1), 100))
    x = jax.random.uniform(new_key(), (6, 4, 4, 1))
    variables = jax.jit(built.model.init)(new_key(), x)
    variables["codebook"]["use"] = jnp.ones(K)
    own = {"learned": kind == "gradient", "commitment": 0.7, "decay": 0.6}
    exact, other = (
        vqvae.loss(built.model.clone(quantizer=quantize.VQ(K, Z, **own, reinit_below=below))) for below in (0.65, 1e-9)
    )
    expected, found = (evaluated(loss, variables, batch(x)) for loss in (exact, built.evaluate))
    assert equal(found, expected)
    use = found[1]["codebook"]["use"]
    without = evaluated(other, variables, batch(x))
    assert np.any(use != without[1]["codebook"]["use"])  # some code is re-initialised
    terms = found[0]
    distance = (0.7 + (kind == "gradient")) * terms["quantization"]
    np.testing.assert_allclose(terms["loss"], terms["reconstruction"] + distance, rtol=1e-5)


@pytest.mark.parametrize("codebook", ["ema", pytest.param("gradient", marks=pytest.mark.slow)])
def test_trained_model_reconstructs_digits_with_over_half_of_its_codebook(codebook):
    digits = data.load("digits")
    config = experiment.Config(filters=(4, 8), codes=32, latent=4, lr=3e-3, codebook=codebook, decay=0.9)
    built = experiment.build(config, digits.info)
    variables = jax.jit(built.model.init)(new_key(), jnp.zeros((1, *digits.shape)))
    params = variables.pop("params")
    state = State(jnp.int32(0), params, jax.jit(built.train.init)(params), dict(variables))
    x = digits.train.x[: 10 * 64].astype(np.float32).reshape(10, 64, *digits.shape) / 255
    first = batch(x[0])

    @jax.jit
    def train(state, x):
        def body(i, state):
            key = jax.random.fold_in(new_key(), i)
            state, _ = built.train.step(state, first.replace(x=x[i % 10]), key)
            return state._replace(step=state.step + 1)

        return jax.lax.fori_loop(0, 200, body, state)

    state = train(state, jnp.asarray(x))
    model = trained(built, state.params, state.extra, digits.shape)
    few = digits._replace(test=data.Split(digits.test.x[:200], digits.test.y[:200]))
    pixels = few.test.x.astype(np.float32) / 255
    error = np.mean((np.asarray(model.reconstruct(few.test.x)) - pixels) ** 2)
    assert error < 0.4 * np.mean((x.mean((0, 1)) - pixels) ** 2)
    found = usage(model, few)
    book = apply(built.model, model.variables, np.arange(32)[None], method="embed")
    rows = brute_force(np.asarray(model.encode(few.test.x)), np.asarray(book)[0])
    _, counts = np.unique(rows, return_counts=True)
    shares = counts / rows.size
    np.testing.assert_allclose(found["perplexity"], np.prod(shares**-shares), rtol=1e-5)
    assert found["usage"] == len(counts) / 32
    assert found["perplexity"] > 6
    assert found["usage"] > 0.5
