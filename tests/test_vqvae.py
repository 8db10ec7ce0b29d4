import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import batch, equal, new_key
from experiments import vqvae as experiment
from jaxae import data, nets, run
from jaxae.batch import AXIS
from jaxae.errors import InputError
from jaxae.experiment import Model
from jaxae.reduction import Parts, gradient, means, taken_in
from jaxae.types import Batch, State
from jaxae.variants import vqvae

K, Z = 5, 2


class Squares(nn.Module):
    """A decoder that is not linear: [B, 2, 2, Z] -> [B, 2, 2, 1]."""

    @nn.compact
    def __call__(self, z):
        return nn.Dense(1)(z**2)


def small(**fields):
    model = vqvae.VQVAE(nets.MLP((), (2, 2, Z), axes=3), Squares(), codes=K, latent=Z, **fields)
    x = jax.random.uniform(new_key(), (6, 2, 2, 1))
    variables = model.init(new_key(), x)
    params = variables.pop("params")
    return model, params, dict(variables), x


def brute_force(z, codes):
    """argmin_k |z - e_k| in double precision."""
    z, codes = np.asarray(z, np.float64), np.asarray(codes, np.float64)
    return np.argmin(((z[..., None, :] - codes) ** 2).sum(-1), axis=-1)


def quantized(model, params, extra, x):
    """The encoder's vectors, their codes and where these stand, in NumPy."""
    found = model.apply({"params": params, **extra}, x, method="quantize")
    return [np.asarray(array) for array in found]


def test_nearest_codes_against_brute_force():
    rng = np.random.default_rng(0)
    codes = jnp.asarray(rng.normal(size=(37, 8)), jnp.float32)
    z = jnp.asarray(rng.normal(size=(20, 7, 7, 8)), jnp.float32)
    assert np.array_equal(vqvae.nearest(z, codes), brute_force(z, codes))
    assert np.array_equal(vqvae.nearest(codes, codes), np.arange(37))
    assert np.array_equal(vqvae.nearest(z[0, 0], jnp.repeat(codes[:1], 3, axis=0)), np.zeros(7))  # the first of equals


def test_codes_are_those_of_the_codebook_and_nothing_else_is_decoded():
    model, params, extra, x = small()
    z, _, rows = quantized(model, params, extra, x)
    codes = np.asarray(extra["codebook"]["codes"])
    assert np.array_equal(rows, brute_force(z, codes))
    assert len(np.unique(rows)) > 1
    variables = {"params": params, **extra}
    encoded = model.apply(variables, x, method="encode")
    assert equal(encoded, codes[rows])
    assert np.array_equal(model.apply(variables, encoded, method="index"), rows)
    _, logits = model.apply(variables, x)
    assert equal(model.apply(variables, encoded, method="decode"), nn.sigmoid(logits))
    far = model.apply(variables, 1e3 * encoded, method="decode")
    assert 0 <= far.min() < far.max() <= 1


def test_straight_through():
    """The value is q to the bit; the gradient is what follows' at q, for z alone."""
    z, q = (jax.random.normal(jax.random.fold_in(new_key(), i), (4, 3)) * 10.0**i for i in (0, 3))
    assert equal(vqvae.straight_through(z, q), q)
    to_z, to_q = jax.grad(lambda z, q: jnp.sum(vqvae.straight_through(z, q) ** 3), argnums=(0, 1))(z, q)
    assert equal(to_z, 3 * q**2)
    assert not to_q.any()


@pytest.mark.parametrize("fields", [{}, {"learned": True, "tracked": False}, {"learned": True}])
def test_gradients_against_closed_forms(fields):
    """The encoder's is the decoder's at the codes, and 2 beta (z - e); a learned codebook's is the sum of 2 (e - z)."""
    model, params, extra, x = small(**fields)
    beta = 0.7
    loss = vqvae.loss(model, beta)
    slope = jax.jit(jax.grad(lambda p: loss(p, extra, batch(x), new_key())[0]))(params)

    z, e, rows = quantized(model, params, extra, x)

    def reconstruction(q):
        """Sum over the examples."""
        logits = Squares().apply({"params": params["decoder"]}, q)
        return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, x))

    to_z = np.asarray(jax.grad(reconstruction)(jnp.asarray(e))) + 2 * beta * (z - e)
    flat, inputs = to_z.reshape(6, -1), np.asarray(x).reshape(6, -1)
    np.testing.assert_allclose(slope["encoder"]["Dense_0"]["kernel"], inputs.T @ flat / 6, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(slope["encoder"]["Dense_0"]["bias"], flat.mean(0), rtol=1e-4, atol=1e-6)
    assert ("codebook" in slope) == bool(fields)
    if fields:
        expected = np.zeros((K, Z))
        np.add.at(expected, rows, 2 * (e - z))
        np.testing.assert_allclose(slope["codebook"], expected / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_loss_against_numpy(learned):
    model, params, extra, x = small(learned=learned)
    value, (after, metrics) = jax.jit(vqvae.loss(model, 0.3))(params, extra, batch(x), new_key())
    assert equal(after, extra)
    z, e, _ = quantized(model, params, extra, x)
    pixels = np.asarray(model.apply({"params": params, **extra}, jnp.asarray(e), method="decode"), np.float64)
    target = np.asarray(x, np.float64)
    cross = -(target * np.log(pixels) + (1 - target) * np.log(1 - pixels)).sum((1, 2, 3)).mean()
    distance = ((z - e).astype(np.float64) ** 2).sum((1, 2, 3)).mean()
    assert metrics.keys() == {"loss", "reconstruction", "quantization", "bce", "mse"}
    np.testing.assert_allclose(value, cross + (0.3 + learned) * distance, rtol=1e-5)
    np.testing.assert_allclose(metrics["reconstruction"], cross, rtol=1e-5)
    np.testing.assert_allclose(metrics["quantization"], distance, rtol=1e-5)
    np.testing.assert_allclose(metrics["bce"], cross / 4, rtol=1e-5)
    np.testing.assert_allclose(metrics["mse"], ((pixels - target) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("learned", [False, True])
def test_batch_size_changes_nothing(learned):
    """Twice the same examples: the same loss, gradient, averages and metrics."""
    model, params, extra, x = small(learned=learned)
    loss = jax.jit(jax.value_and_grad(vqvae.loss(model, 0.3, vqvae.track(0.9)), has_aux=True))
    once, twice = (loss(params, extra, batch(array), new_key()) for array in (x, np.concatenate([x, x])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), once, twice)


def some(n, seed=0):
    """A codebook of K codes that some of n examples' 3 x 2 vectors are near to."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate([rng.normal(size=(K - 1, Z)), [[50.0, 50.0]]]).astype(np.float32)
    z = jnp.asarray(rng.normal(size=(n, 3, 2, Z)), jnp.float32)
    return {"codebook": {"codes": jnp.asarray(codes), "use": jnp.ones(K)}}, z


def test_averages_against_numpy_over_three_steps():
    """As counts and sums, which is how the paper writes them; one code is near to nothing."""
    extra, _ = some(1)
    decay = 0.6
    counts = np.full(K, 4 * 6 / K)  # of batches of 4, of even use
    codes = np.asarray(extra["codebook"]["codes"], np.float64)
    sums = counts[:, None] * codes
    for step in range(3):
        _, z = some(4, seed=step)
        rows = brute_force(z, codes)
        onehot = np.eye(K)[rows.reshape(-1)]
        n = onehot.sum(0)
        counts = decay * counts + (1 - decay) * n
        sums = decay * sums + (1 - decay) * onehot.T @ np.asarray(z, np.float64).reshape(-1, Z)
        codes = sums / counts[:, None]
        found = vqvae.nearest(z, extra["codebook"]["codes"])
        extra, metrics = jax.jit(vqvae.track(decay))({}, extra, z, found, batch(z), new_key())
        np.testing.assert_allclose(extra["codebook"]["codes"], codes, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(extra["codebook"]["use"], counts * K / 24, rtol=1e-5)
        shares = n[n > 0] / 24
        np.testing.assert_allclose(metrics["perplexity"], np.prod(shares**-shares), rtol=1e-5)
        np.testing.assert_allclose(metrics["usage"], len(shares) / K)
    assert np.array_equal(extra["codebook"]["codes"][-1], [50, 50])


def test_perplexity_and_usage_of_known_distributions():
    extra, z = some(K)
    for rows, perplexity, share in (
        (np.zeros((K, 3, 2)), 1, 1 / K),
        (np.tile(np.arange(K)[:, None, None], (1, 3, 2)), K, 1),
        (np.tile([[0, 1]] * 3, (K, 1, 1)), 2, 2 / K),
    ):
        _, metrics = vqvae.track()({}, extra, z, jnp.asarray(rows, jnp.int32), batch(z), new_key())
        np.testing.assert_allclose(metrics["perplexity"], perplexity, rtol=1e-5)
        np.testing.assert_allclose(metrics["usage"], share, rtol=1e-6)


def test_first_vectors_move_a_code_to_their_mean_and_one_never_used_stays_finite():
    extra, z = some(4)
    extra["codebook"]["use"] = jnp.zeros(K)
    rows = vqvae.nearest(z, extra["codebook"]["codes"])
    after, _ = vqvae.track(0.99)({}, extra, z, rows, batch(z), new_key())
    for k in range(K - 1):
        np.testing.assert_allclose(
            after["codebook"]["codes"][k], np.asarray(z)[np.asarray(rows) == k].mean(0), rtol=1e-4
        )
    assert np.array_equal(after["codebook"]["codes"][-1], [50, 50])


def is_a_row(row, table):
    return bool((np.asarray(table) == np.asarray(row)).all(-1).any())


@pytest.mark.parametrize("learned", [False, True])
def test_revival_puts_in_an_output_of_the_encoder_and_nothing_else(learned):
    model, params, extra, x = small(learned=learned)
    far = jnp.zeros((K, Z)).at[:2].set(40.0)
    extra["codebook"] = {"codes": extra["codebook"]["codes"] + far, "use": jnp.ones(K)}
    z, _, rows = quantized(model, params, extra, x)
    assert not np.isin(rows, (0, 1)).any()

    def book(extra):
        return extra["codebook"]["codes"] + params.get("codebook", 0.0)

    def after(**how):
        loss = jax.jit(vqvae.loss(model, 0.3, vqvae.track(0.5, **how)))
        return loss(params, extra, batch(x), new_key())[1][0]

    without, with_it = after(), after(revival=0.51)
    dead = np.asarray(without["codebook"]["use"]) < 0.51
    assert dead[:2].all()
    assert not dead.all()
    assert equal(with_it["codebook"]["codes"][~dead], without["codebook"]["codes"][~dead])
    assert equal(with_it["codebook"]["use"], jnp.where(dead, 1, without["codebook"]["use"]))
    drawn = np.asarray(book(with_it))[dead]
    if learned:  # a sum of two: to rounding
        distance = np.abs(drawn[:, None] - z.reshape(1, -1, Z)).max(-1).min(1)
        assert distance.max() < 1e-5
    else:
        assert all(is_a_row(row, z) for row in drawn)
    assert equal(after(revival=0.49), without)  # in one step of decay 0.5 nothing falls that low


def test_no_code_becomes_a_copy_of_another():
    """Not of one that is there, nor of one that is drawn with it; to rounding."""
    codes = jnp.array([[1.0, 0.0], [0.0, 3.0]])
    fresh = jnp.array([[0.0, 3.0], [2.0, 2.0], [1.0, 1e-6], [2.0, 2.0000002], [2.0, 2.1], [0.0, 0.0]])
    assert vqvae.unlike(fresh, codes).tolist() == [False, True, False, False, True, True]


def test_every_vector_is_drawn_as_often():
    vectors = jnp.arange(12.0).reshape(4, 3, 1)
    drawn = np.asarray(vqvae.drawn(vectors, 30_000, batch(vectors), new_key()))[:, 0]
    counts = np.bincount(drawn.astype(int), minlength=12)
    assert abs(counts - 2500).max() < 4 * np.sqrt(2500)


@pytest.mark.parametrize("learned", [False, True])
def test_two_shares_give_what_the_whole_batch_gives(learned):
    """Loss, averages, revival and metrics; both shares have the same."""
    model, params, extra, x = small(learned=learned)
    loss = jax.jit(vqvae.loss(model, 0.3, vqvae.track(0.9, revival=1.0)))
    whole = batch(x)
    key = new_key()
    expected = loss(params, extra, whole, jax.random.clone(key))
    shares = Batch(*(None if leaf is None else leaf.reshape(2, 3, *leaf.shape[1:]) for leaf in whole))
    found = jax.jit(jax.vmap(lambda part: loss(params, extra, part, key), axis_name=AXIS))(shares)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, both)
    moved = np.asarray(expected[1][0]["codebook"]["use"]) == 1
    assert moved.any()


@pytest.mark.parametrize("learned", [False, True])
def test_batches_are_taken_in_parts_where_nothing_looks_at_the_whole(learned):
    """That is, in every evaluation, and where there is no state to train."""
    model, params, extra, x = small(learned=learned, tracked=False)
    assert bool(extra) == (not learned)
    loss, whole = vqvae.loss(model, 0.3), batch(jnp.tile(x, (4, 1, 1, 1)))
    expected = loss(params, extra, whole, new_key())[1][1]
    with taken_in(Parts(4, ordered=False)):
        found = jax.jit(lambda: means(lambda part: loss(params, extra, part, new_key())[1][1], whole))()
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
        if learned:
            slope, _ = jax.jit(lambda: gradient(lambda p, part: loss(p, {}, part, new_key()), params, whole))()
    if learned:
        once = jax.jit(jax.grad(lambda p: loss(p, {}, whole, new_key())[0]))(params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), slope, once)


def test_statistics_of_batches_are_refused_in_parts():
    for learned in (False, True):
        model, params, extra, x = small(learned=learned)
        loss = vqvae.loss(model, 0.3, vqvae.track())
        with taken_in(Parts(2, ordered=False)), pytest.raises(InputError, match="--accumulate"):
            means(lambda part: loss(params, extra, part, new_key())[1][1], batch(x))  # noqa: B023


@pytest.mark.parametrize(
    ("fields", "collections"),
    [
        ({}, {"params", "codebook"}),
        ({"revive": 0.0}, {"params", "codebook"}),
        ({"codebook": "gradient"}, {"params", "codebook"}),
        ({"codebook": "gradient", "revive": 0.0}, {"params"}),
    ],
)
def test_state_is_kept_where_it_is_needed(fields, collections):
    built = experiment.build(experiment.Config(**fields), run.Info((28, 28, 1), 100))
    variables = jax.eval_shape(built.model.init, new_key(), jnp.zeros((1, 28, 28, 1)))
    assert variables.keys() == collections
    assert ("codebook" in variables["params"]) == ("codebook" in fields)


def test_a_decay_of_one_is_refused():
    with pytest.raises(InputError, match="--decay 1.0: must be below 1"):
        vqvae.track(1.0)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_learns_digits_with_much_of_its_codebook(codebook):
    digits = data.load("digits")
    config = experiment.Config(filters=(4, 8), codes=32, latent=4, lr=3e-3, codebook=codebook, decay=0.9)
    built = experiment.build(config, digits.info)
    variables = jax.jit(built.model.init)(new_key(), jnp.zeros((1, *digits.shape)))
    params = variables.pop("params")
    state = State(jnp.int32(0), params, built.transition.init(params), dict(variables))
    x = digits.train.x[: 10 * 64].astype(np.float32).reshape(10, 64, *digits.shape) / 255
    first = batch(x[0])

    @jax.jit
    def train(state, x):
        def body(i, state):
            key = jax.random.fold_in(new_key(), i)
            state, _ = built.transition.step(state, first._replace(x=x[i % 10]), key)
            return state._replace(step=state.step + 1)

        return jax.lax.fori_loop(0, 200, body, state)

    state = train(state, jnp.asarray(x))
    trained = Model(built, state.params, state.extra, digits.shape)
    few = digits._replace(test=data.Split(digits.test.x[:200], digits.test.y[:200]))
    pixels = few.test.x.astype(np.float32) / 255
    error = np.mean((np.asarray(trained.reconstruct(few.test.x)) - pixels) ** 2)
    assert error < 0.4 * np.mean((x.mean((0, 1)) - pixels) ** 2)
    found = vqvae.usage(trained, few)
    rows = brute_force(np.asarray(trained.encode(few.test.x)), trained.experiment.model.bind(trained._variables).book)
    _, counts = np.unique(rows, return_counts=True)
    shares = counts / rows.size
    np.testing.assert_allclose(found["perplexity"], np.prod(shares**-shares), rtol=1e-5)
    assert found["usage"] == len(counts) / 32
    assert found["perplexity"] > 6
    assert found["usage"] > 0.5
