"""M2 against enumeration in NumPy, with some and with all classes; labels that are hidden; M1+M2."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import jaxae
from conftest import apply, batch, evaluated, new_key
from jaxae import data
from jaxae.core.types import Info, State
from jaxae.data.labels import keep
from jaxae.errors import InputError
from jaxae.experiments import m2 as experiment
from jaxae.measure import classification
from jaxae.variants import m2, vae

rng = np.random.default_rng(0)
N, D, K, Z = 9, 4, 3, 2
Y = np.array([0, -1, 2, 1, -1, -1, 0, 2, 1], np.int32)
CONTEXT = rng.normal(size=(N, 1)).astype(np.float32)
X = rng.normal(size=(N, D)).astype(np.float32)
INFO = Info((D,), N, real=True, classes=K, context=1, labelled=6)


def built(info=INFO, **fields):
    """A small model with random parameters away from their initial values."""
    config = experiment.Config(**{"hidden": (5,), "latent": Z, "batch_size": 3, "likelihood": "normal", **fields})
    found = experiment.build(config, info)
    x, c = jnp.zeros((1, *info.shape)), jnp.zeros((1, info.classes + info.context))
    leaves, tree = jax.tree.flatten(jax.jit(found.model.init)(new_key(), x, c)["params"])
    noise = np.random.default_rng(1)
    moved = [leaf + 0.15 * noise.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return found, {"params": jax.tree.unflatten(tree, moved)}


def examples(y=Y):
    return batch(X).replace(y=jnp.asarray(y), context=jnp.asarray(CONTEXT))


def mlp(params, h):
    """A network with one hidden layer, in float64."""
    of = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    hidden = np.maximum(h @ of["Dense_0"]["kernel"] + of["Dense_0"]["bias"], 0)
    return hidden @ of["Dense_1"]["kernel"] + of["Dense_1"]["bias"]


def enumerated(variables, kl_weight, eps):
    """L(x, y) of every example and class, and log q(y|x), by loops; likelihood N(mean, 1)."""
    params = variables["params"]
    log_q = special.log_softmax(mlp(params["classifier"], np.concatenate([X, CONTEXT], 1)), axis=1)
    bound = np.zeros((N, K))
    for i in range(N):
        for y in range(K):
            c = np.concatenate([np.eye(K)[y], CONTEXT[i]])
            mean, log_scale = np.split(mlp(params["encoder"], np.concatenate([X[i], c])), 2)
            z = mean + np.exp(log_scale) * eps[i, y]
            log_p = stats.norm(mlp(params["decoder"], np.concatenate([z, c])), 1).logpdf(X[i]).sum()
            kl = 0.5 * np.sum(mean**2 + np.exp(2 * log_scale) - 1) - log_scale.sum()
            bound[i, y] = -log_p + np.log(K) + kl_weight * kl
    return bound, log_q


KEY = 7


def noise():
    """The noise of the loss with this key."""
    return np.asarray(examples().noise(jax.random.split(jax.random.key(KEY))[1], (K, Z)), np.float64)


def test_loss_against_enumeration_over_the_classes():
    """U(x) where the class is missing, L(x, y) + weight * cross-entropy where it is known; two weights other than 1."""
    found, variables = built()
    terms, _ = evaluated(m2.loss(found.model, 2.5, 0.4), variables, examples(), jax.random.key(KEY))
    bound, log_q = enumerated(variables, 0.4, noise())
    q = np.exp(log_q)
    for i in range(N):
        u = sum(q[i, y] * (bound[i, y] + log_q[i, y]) for y in range(K))
        expected = u if Y[i] < 0 else bound[i, Y[i]] - 2.5 * log_q[i, Y[i]]
        assert float(terms["loss"][i]) == pytest.approx(expected, rel=1e-4)
    known = Y >= 0
    np.testing.assert_allclose(terms["cross_entropy"], np.where(known, -log_q[np.arange(N), Y], 0), rtol=1e-4)
    np.testing.assert_array_equal(terms["wrong"], known & (log_q.argmax(1) != Y))


def test_bound_without_a_class_is_the_logarithm_of_the_sum_over_classes_at_the_optimal_classifier():
    """min over q(y|x) of U is -log sum_y e^-L(x, y): the classes are integrated out exactly."""
    found, variables = built()
    bound, log_q = enumerated(variables, 1.0, noise())
    unknown = examples(np.full(N, -1, np.int32))
    terms, _ = evaluated(m2.loss(found.model, 0.0), variables, unknown, jax.random.key(KEY))
    optimum = -special.logsumexp(-bound, axis=1)
    log_posterior = -bound - special.logsumexp(-bound, axis=1)[:, None]
    gap = np.sum(np.exp(log_q) * (log_q - log_posterior), axis=1)  # KL(q(y|x) || its optimum)
    np.testing.assert_allclose(terms["loss"], optimum + gap, rtol=1e-4)
    assert gap.min() > 1e-3


def test_with_all_classes_the_loss_is_that_of_a_conditional_model_plus_the_classifier():
    """A VAE with the same encoder and decoder under the condition, with standard prior."""
    found, variables = built()
    y = np.arange(N, dtype=np.int32) % K
    plain = vae.VAE(found.model.encoder, found.model.decoder, found.model.likelihood, classes=K)
    key, draws = new_key(), 4000
    many = jax.tree.map(lambda leaf: jnp.repeat(leaf, draws, axis=0), examples(y))
    many = many.replace(index=jnp.arange(N * draws), step=jnp.int32(0))
    params = {"params": {name: variables["params"][name] for name in ("encoder", "decoder")}}
    conditional, _ = jax.jit(vae.loss(plain))(params, many, key)
    terms, _ = jax.jit(m2.loss(found.model, 0.7))(variables, many, jax.random.key(5))
    one, other = (np.asarray(part, np.float64).reshape(N, draws) for part in (terms["loss"], conditional["loss"]))
    expected = other + np.log(K) + 0.7 * np.asarray(terms["cross_entropy"]).reshape(N, draws)
    spread = np.sqrt((one.var(1) + other.var(1)) / draws)
    assert np.all(np.abs(one.mean(1) - expected.mean(1)) < 5 * spread)
    assert np.all(20 * spread < one.mean(1))


def test_alpha_is_relative_to_the_number_of_examples_with_a_class():
    """The mean training loss is the mean bound plus alpha times the mean cross-entropy of the examples with a class."""
    info = INFO._replace(train=90)
    found, variables = built(info, alpha=0.3)
    state_terms, _ = evaluated(m2.loss(found.model, 0.3 * 90 / 6), variables, examples())
    plain, _ = evaluated(found.evaluate, variables, examples())
    many = examples()
    state = State(jnp.int32(0), variables["params"], found.train.init(variables["params"]), {})
    metrics = jax.jit(found.train.step)(state, many, new_key())[1]
    np.testing.assert_allclose(metrics["loss"], state_terms["loss"].mean(), rtol=1e-5)
    difference = state_terms["loss"] - plain["loss"]
    np.testing.assert_allclose(difference, 0.3 * 90 / 6 * plain["cross_entropy"], rtol=1e-3, atol=1e-4)


def test_codes_of_examples_without_a_class_are_those_of_the_most_probable_one():
    found, variables = built()
    c = np.concatenate([np.zeros((N, K)), CONTEXT], axis=1).astype(np.float32)
    of = partial(apply, found.model, variables, 8 * X)
    likely = np.eye(K)[np.asarray(of(c, method="classify")).argmax(1)]
    assert len(np.unique(likely.argmax(1))) > 1
    full = np.concatenate([likely, CONTEXT], axis=1).astype(np.float32)
    fixed = np.concatenate([np.roll(likely, 1, axis=1), CONTEXT], axis=1).astype(np.float32)
    for name in ("encode", "reconstruct"):
        one, other, third = (of(part, method=name) for part in (c, full, fixed))
        np.testing.assert_allclose(one, other, rtol=1e-6)
        assert not np.allclose(one, third, rtol=1e-3)


@pytest.mark.slow
def test_m1_is_trained_first_and_m2_then_on_its_codes():
    """Pretraining moves M1 alone, the rest M2 alone; the features are samples in training and means in evaluation."""
    info = INFO._replace(context=0, train=9)
    found, variables = built(info, pretrain=1, epochs=3, m1_hidden=(6,), m1_latent=3)
    many = batch(X).replace(y=jnp.asarray(Y))
    state = State(jnp.int32(0), variables["params"], found.train.init(variables["params"]), {})
    step = jax.jit(found.train.step)
    for now, moving in ((0, {"m1"}), (2, {"m1"}), (3, {"encoder", "decoder", "classifier"})):
        new, _ = step(state._replace(step=jnp.int32(now)), many, new_key())
        changed = {
            name
            for name in new.params
            if any(
                np.any(a != b)
                for a, b in zip(*map(jax.tree.leaves, (new.params[name], state.params[name])), strict=True)
            )
        }
        assert changed == moving
    q = found.model.apply(variables, jnp.asarray(X), method=lambda model, x: model.m1.posterior(x))
    eps = jnp.asarray(rng.normal(size=(N, 3)), jnp.float32)
    features = found.model.apply(variables, jnp.asarray(X), eps, method="features")
    np.testing.assert_allclose(features, q.mean + q.scale * eps, rtol=1e-5)
    one, two = (found.evaluate(variables, many.replace(training=False), new_key())[0]["cross_entropy"] for _ in "12")
    np.testing.assert_array_equal(one, two)
    loss = m2.loss(found.model, 1.0)
    drawn = loss(variables, many, new_key())[0]["cross_entropy"]
    assert not np.allclose(drawn, one, rtol=1e-4)


def digits(**fields):
    return data.load("digits", **fields)


def test_labels_keep_the_same_number_of_each_class_by_seed():
    found, other, full = digits(labels=43), digits(labels=43, labels_seed=1), digits()
    y = found.train.y
    np.testing.assert_array_equal(np.bincount(y[y >= 0]), [5, 5, 5, 4, 4, 4, 4, 4, 4, 4])
    kept = y >= 0
    np.testing.assert_array_equal(y[kept], full.train.y[kept])
    np.testing.assert_array_equal(found.test.y, full.test.y)
    assert not np.array_equal(kept, other.train.y >= 0)
    assert found.info.labelled == 43 < full.info.labelled == len(full.train.y)
    assert f"({len(y) - 43:,} examples without a class)" in data.summary(found)


def test_hidden_labels_equal_nan_labels_in_the_data():
    """--labels is a way to write -1, NaN or an empty string for the classes of the other examples."""
    y = np.arange(40) % 4
    hidden = data.from_arrays(np.eye(40), y, test=np.eye(40), test_y=y, labels=8)
    given = np.where(hidden.train.y < 0, np.nan, y)
    again = data.from_arrays(np.eye(40), given, test=np.eye(40), test_y=y)
    assert hidden.fingerprint() == again.fingerprint()
    assert again.info.labelled == 8


@pytest.mark.parametrize(
    ("count", "seed", "y", "says"),
    [
        (3, 0, np.arange(20) % 4, "labels=3 must be at least 4, one for each class"),
        (24, 0, np.arange(20) % 4, "labels=24: class 0 has 5 training examples, fewer than 6"),
        (4, 0, None, "labels=4 has no effect, since the data have no classes"),
        (0, 2, np.arange(20) % 4, "labels_seed=2 has no effect without labels"),
    ],
)
def test_numbers_of_labels_out_of_range_raise(count, seed, y, says):
    found = data.from_arrays(np.eye(20), y, test=0)
    with pytest.raises(InputError, match=says):
        keep(found, count, seed)


SMALL = {"hidden": (16,), "latent": 4, "batch_size": 20, "progress": False}


@pytest.mark.slow
def test_classifier_learns_from_few_labels_and_is_loaded(tmp_path):
    """Two clusters along one axis: four labels are enough. Probabilities, measure and reconstructions of two seeds."""
    side = np.arange(400) % 2
    x = rng.normal(size=(400, 3)) * 0.3 + side[:, None] * 2.0
    y = np.array(["low", "high"])[side]
    fields = {
        "labels": 4,
        "alpha": 1.0,
        "epochs": 15,
        "lr": 1e-2,
        "seeds": 2,
        "test": 0.5,
        "workdir": tmp_path / "run",
        **SMALL,
    }
    jaxae.fit("m2", x, y=y, figures=False, **fields)
    model = jaxae.load(tmp_path / "run")
    p = np.asarray(model.classify(x))
    assert p.shape == (2, 400, 2)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    names = np.array(model.conditions.classes)
    for one in p:
        assert np.mean(names[one.argmax(1)] == y) > 0.97
    reconstructed = np.asarray(model.reconstruct(x))
    likely = [model[i].reconstruct(x, y=names[p[i].argmax(1)]) for i in range(2)]
    np.testing.assert_allclose(reconstructed, likely, rtol=1e-4, atol=1e-5)
    error = np.mean(((reconstructed - x) / model.scale.factor) ** 2, axis=-1)  # in model units
    np.testing.assert_allclose(model.score(x, by="reconstruction_error"), error, rtol=1e-3, atol=1e-6)
    plain = jaxae.fit("vae", np.eye(20), epochs=1, test=0, progress=False, batch_size=10, hidden=(4,))
    with pytest.raises(ValueError, match="VAE infers no classes; use m2"):
        plain.classify(np.eye(20))
    samples = np.asarray(model.sample(new_key(), 50, y="high"))
    assert samples.mean() > 1 > np.asarray(model.sample(new_key(), 50, y="low")).mean()
    with pytest.raises(ValueError, match="M2 is conditional; pass y, a class of high, low"):
        model.sample(new_key(), 3)


def test_error_is_the_percentage_of_wrong_classes_of_the_test_examples_with_a_class():
    y = np.array([0, 1, -1, 1, 0])
    found = data.from_arrays(np.eye(5), y.clip(0), test=np.eye(5), test_y=np.where(y < 0, np.nan, y))
    p = np.eye(2)[[0, 0, 1, 1, 0]]
    model = SimpleNamespace(experiment=None, variables={}, encode=lambda x: x, classify=lambda x: p)
    assert classification.measure(model, found) == {"error": 25.0}
    without = found._replace(test=found.test._replace(y=np.full(5, -1, np.int32)))
    assert classification.measure(model, without) == {}


def test_data_without_classes_raise():
    with pytest.raises(ValueError, match="m2 needs examples with a class; pass y to fit, or target=COLUMN"):
        experiment.build(experiment.Config(), Info((4,), 9, real=True))
    with pytest.raises(ValueError, match="pretrain=100 must be below epochs=100"):
        experiment.build(experiment.Config(pretrain=100), INFO)
