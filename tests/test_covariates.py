"""Covariates and conditional models, from data to samples."""

import csv

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.io import wavfile

import jaxae
from conftest import call, equal, new_key
from jaxae import data, run
from jaxae.core.conditions import condition
from jaxae.core.step import descend
from jaxae.data import covariates
from jaxae.data.classes import indices, labels_of
from jaxae.errors import Diverged, InputError
from jaxae.experiments import cvae
from jaxae.run import directory
from jaxae.training.iterate import iterate

rng = np.random.default_rng(0)

COUNT = 60
AGE = rng.normal(40, 5, COUNT)
COLOUR = np.array(["red", "blue", "dark  grey"])[rng.integers(0, 3, COUNT)]
Y = rng.integers(0, 3, COUNT)
X = np.stack([AGE, Y, rng.normal(size=COUNT)], axis=1)  # shows whether rows are mixed up
CONTEXT = {"age": AGE, "colour": COLOUR}
NAMES = ("age", "colour=blue", "colour=dark grey", "colour=red")


def users(split, found):
    """The first column of the examples, in the user's units."""
    return split.x[..., 0] * found.scale.factor[0] + found.scale.offset[0]


def matches(found):
    """Every example has its own covariates and class, in every split; scaled by the training split, against NumPy."""
    rows = {round(age, 3): number for number, age in enumerate(AGE)}
    splits = found.splits
    own = [np.array([rows[round(age, 3)] for age in users(split, found).tolist()]) for split in splits]
    mean, deviation = AGE[own[0]].mean(), AGE[own[0]].std()
    words = np.array([" ".join(word.split()) for word in COLOUR])
    assert found.covariates == NAMES
    for split, place in zip(splits, own, strict=True):
        np.testing.assert_allclose(split.context[:, 0], (AGE[place] - mean) / deviation, rtol=1e-4, atol=1e-5)
        for column, word in enumerate(("blue", "dark grey", "red"), 1):
            np.testing.assert_array_equal(split.context[:, column], words[place] == word)
    return sum(map(len, own))


def test_examples_keep_their_covariates_when_splits_are_held_out():
    found = data.from_arrays(X, Y, context=CONTEXT, test=0.2, valid=9)
    assert [len(split.x) for split in found.splits] == [39, 12, 9]
    assert matches(found) == COUNT
    assert data.summary(found).count("2 covariates") == 1
    assert (found.info.classes, found.info.context) == (3, 4)


def test_splits_passed_as_arrays_have_the_categories_of_training():
    cut = {"train": slice(40), "test": slice(40, 50), "valid": slice(50, 60)}
    of = {name: {key: values[part] for key, values in CONTEXT.items()} for name, part in cut.items()}
    found = data.from_arrays(
        X[cut["train"]],
        context=of["train"],
        test=X[cut["test"]],
        test_context=of["test"],
        valid=X[cut["valid"]],
        valid_context=of["valid"],
    )
    assert matches(found) == COUNT
    one = {**of["test"], "colour": ["red"] * 10}
    found = data.from_arrays(X[:40], context=of["train"], test=X[40:50], test_context=one)
    np.testing.assert_array_equal(found.test.context[:, 1:], np.tile([0, 0, 1], (10, 1)))


def write(path, x, **columns):
    columns = {f"x{place}": x[:, place] for place in range(x.shape[1])} | columns
    with path.open("w") as file:
        csv.writer(file).writerows([columns, *zip(*columns.values(), strict=True)])
    return str(path)


def test_columns_of_a_table_are_covariates(tmp_path):
    path = write(tmp_path / "t.csv", X, **CONTEXT, kind=np.array(["a", "b", "c"])[Y])
    found = data.load(path, context=("age", "colour"), target="kind")
    assert matches(found) == COUNT
    assert (found.features, found.classes) == (("x0", "x1", "x2"), ("a", "b", "c"))
    other = write(tmp_path / "other.csv", X[:9], colour=COLOUR[:9], kind=["b"] * 9, age=AGE[:9], more=AGE[:9])
    found = data.load(path, context=("age", "colour"), target="kind", test=other)
    assert matches(found) == COUNT + 9
    assert found.classes == ("a", "b", "c")
    np.testing.assert_array_equal(found.test.y, 1)


def test_arrays_of_a_file_are_covariates(tmp_path):
    both = np.stack([AGE.astype(str), COLOUR], axis=1)
    np.savez(tmp_path / "all.npz", x=X, y=Y, context=both)
    found = data.load(str(tmp_path / "all.npz"), test="0.3")
    assert found.covariates == tuple(name.replace("age", "context0").replace("colour", "context1") for name in NAMES)
    assert matches(found._replace(covariates=NAMES)) == COUNT
    np.savez(tmp_path / "parts.npz", x_train=X[:40], context_train=AGE[:40], x_test=X[40:], context_test=AGE[40:])
    found = data.load(str(tmp_path / "parts.npz"))
    assert found.covariates == ("context",)
    np.testing.assert_allclose(found.test.context[:, 0], found.test.x[:, 0], rtol=1e-4, atol=1e-5)


def test_windows_and_frames_have_the_covariates_of_their_series_and_video(tmp_path):
    series = [np.full((number + 5, 1), age) for number, age in enumerate(AGE[:12])]
    for found in (
        data.from_arrays(series, context=AGE[:12], window=4, test=0.3),
        data.from_arrays(np.tile(AGE[:12, None, None], (1, 9, 1)), context=AGE[:12], kind="series", window=4),
        data.from_arrays(np.tile(AGE[:12, None, None, None, None], (1, 3, 4, 4, 1)), context=AGE[:12]),
    ):
        for split in found.splits:
            value = split.context[:, 0] * found.context_scale.factor[0] + found.context_scale.offset[0]
            axes = tuple(range(1, split.x.ndim))
            of_x = split.x.mean(axes) * found.scale.factor[0] + found.scale.offset[0]
            np.testing.assert_allclose(value, of_x, rtol=1e-4)
    np.savez(tmp_path / "s.npz", **{f"arr_{number}": part for number, part in enumerate(series)}, context=AGE[:12])
    found = data.load(str(tmp_path / "s.npz"))
    value = found.train.context[:, 0] * found.context_scale.factor[0] + found.context_scale.offset[0]
    np.testing.assert_allclose(value, found.train.x[:, 0, 0] * found.scale.factor[0] + found.scale.offset[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("context", "says"),
    [
        ({"age": np.where(np.arange(COUNT) < 2, np.nan, 1.0)}, "age is missing in [12] example.*; fill it in"),
        ({"age": np.where(np.arange(COUNT) % 2 == 0, np.inf, 1.0)}, "age has infinite values; replace them"),
        ({"colour": ["red", ""] * 30}, "colour is missing in .* examples; fill it in, or leave colour out of context"),
        ({"colour": [None] * COUNT}, "colour is missing"),
        ({"colour": [f"word {number}" for number in range(COUNT)]}, "colour has 54 different strings, more than 50"),
        ({"a=b": AGE}, "a=b: its name has an equals sign"),
        ({"age": np.where(np.arange(COUNT) % 2, 1e308, -1e308)}, "age has values too large"),
        ({"age": AGE[:9]}, r"age has shape \(9,\), not \(60,\): one per example"),
        ({"age": np.zeros((COUNT, 2))}, r"age has shape \(60, 2\)"),
        ({"age": np.array([{}] * COUNT)}, "age is neither all numbers nor all strings"),
        (np.zeros((COUNT, 2, 2)), r"context has shape \(60, 2, 2\); pass shape \[N\] or \[N, C\]"),
    ],
)
def test_unusable_covariates_raise_one_line_errors(context, says):
    with pytest.raises(InputError, match=says) as error:
        data.from_arrays(X, context=context)
    assert "\n" not in str(error.value)


def test_test_split_with_covariates_unlike_those_of_training_raises(tmp_path):
    train = write(tmp_path / "t.csv", X, **CONTEXT)
    for text, test, fields in (
        (
            "colour=pink is not a category of the training data; use blue, dark grey, red",
            {"age": AGE, "colour": ["pink"] * 60},
            {},
        ),
        ("covariate age holds strings, but numbers in the training data", {"age": ["old"] * 60, "colour": COLOUR}, {}),
        ("has no column age; it has x0, x1, x2, colour", {"colour": COLOUR}, {}),
    ):
        other = write(tmp_path / "other.csv", X, **test)
        with pytest.raises(InputError, match=text):
            data.load(train, context=("age", "colour"), test=other, **fields)
    with pytest.raises(InputError, match="has no column weight; it has x0"):
        data.load(train, context=("weight",))
    with pytest.raises(InputError, match="context=age is named twice, by context, target or drop"):
        data.load(train, context=("age",), drop=("age",))
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="context=age has no effect on these data; omit it"):
        data.load(str(tmp_path / "x.npy"), context=("age",))
    np.savez(tmp_path / "c.npz", x=X, context=AGE)
    with pytest.raises(
        InputError, match="test=.* has no covariates, but the training split has context; use the same ones"
    ):
        data.load(str(tmp_path / "c.npz"), test=str(tmp_path / "x.npy"))
    with pytest.raises(
        InputError, match="the test split has no covariates; pass test_context to jaxae.data.from_arrays"
    ):
        data.from_arrays(X, context=AGE, test=X)


def test_numbers_written_as_strings_are_numbers():
    found = data.from_arrays(X, context=[[str(age), "red" if age > 40 else "1"] for age in AGE], test=0)
    assert found.covariates == ("context0", "context1=1", "context1=red")
    np.testing.assert_allclose(found.train.context[:, 0], (AGE - AGE.mean()) / AGE.std(), rtol=1e-4)
    known = found.conditions
    for one in (["3", "1"], np.array([3, 1])):
        columns = covariates.columns(covariates.repeated(one, 2, ["a", "b"]), 2, "context", ["context0", "context1"])
        np.testing.assert_allclose(covariates.in_model_units(columns, known)[:, 1:], [[1, 0]] * 2)


def test_users_units_are_the_inverse_of_model_units():
    found = data.from_arrays(X, Y, context=CONTEXT, test=0)
    given = covariates.given(found, found.train)
    np.testing.assert_allclose(given["context"]["age"], AGE, rtol=1e-5)
    assert given["context"]["colour"].tolist() == [" ".join(word.split()) for word in COLOUR]
    np.testing.assert_array_equal(given["y"], Y)
    assert covariates.given(data.from_arrays(X), data.from_arrays(X).test) == {"y": None, "context": None}


@pytest.mark.parametrize(
    ("y", "classes", "count", "expected"),
    [
        ("b", ("a", "b"), 3, [1, 1, 1]),
        (1, ("a", "b"), 2, [1, 1]),
        ([3, 1], ("1", "2", "3"), 2, [2, 0]),
        ([2.0, np.nan], ("1", "2"), 2, [1, -1]),
        (["a", ""], ("a", "b"), 2, [0, -1]),
        (np.eye(3, dtype=int)[[2, 0]], ("0", "1", "2"), 2, [2, 0]),
    ],
)
def test_labels_name_classes(y, classes, count, expected):
    assert indices(y, classes, count).tolist() == expected


@pytest.mark.parametrize(
    ("y", "classes", "says"),
    [
        ([1, 2], ("a", "b"), r"y has shape \(2,\), not \(3,\)"),
        (5, ("a", "b"), "y=5 is not a class; use one of a, b"),
        (0, ("1", "2"), "y=0 is not a class; use one of 1, 2"),
        ("c", ("a", "b"), "y=c is not a class"),
    ],
)
def test_unknown_labels_raise(y, classes, says):
    with pytest.raises(ValueError, match=says):
        indices(y, classes, 3)


def test_labels_are_numbers_if_all_class_names_are_integers_else_strings():
    np.testing.assert_array_equal(labels_of(np.array([1, -1, 0]), ("4", "7")), [7, np.nan, 4])
    assert labels_of(np.array([1, -1, 0]), ("4", "x")).tolist() == ["x", "", "4"]


class Linear(nn.Module):
    """Linear encoder and decoder of an example and its condition."""

    def setup(self):
        self.encoder, self.decoder = nn.Dense(2), nn.Dense(3)

    def encode(self, x, c):
        return self.encoder(jnp.concatenate([x, c], axis=1))

    def decode(self, z, c):
        return self.decoder(jnp.concatenate([z, c], axis=1))

    def __call__(self, x, c):
        return self.decode(self.encode(x, c), c)


MODEL = Linear()


def shown(variables, batch, key):
    """The condition of every example, weighted by its index, as terms."""
    c = condition(batch.y, batch.context, 3)
    error = jnp.sum((MODEL.apply(variables, batch.x, c) - batch.x) ** 2, axis=1)
    return {"loss": error, **{f"c{place}": c[:, place] * (1.0 + batch.index) for place in range(7)}}, {}


def linear(**fields):
    def prior(variables, key, n, c):
        return jnp.stack([c[:, 0], c[:, 3]], axis=1)

    return jaxae.Experiment(MODEL, descend(shown, optax.adam(1e-2)), shown, prior, conditional=True, **fields)


@pytest.mark.parametrize("limit", [0.0, 1e-6], ids=["resident", "streamed"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_batches_carry_classes_and_covariates(limit, seeds):
    """The test split of 24 examples ends with a batch of 4, padded to 10."""
    found = data.from_arrays(X, Y, context=CONTEXT, test=0.4)
    *_, last = iterate(linear(), found, epochs=2, batch_size=10, seeds=seeds, data_limit=limit)
    c = np.concatenate([np.eye(3)[found.test.y], found.test.context], axis=1)
    expected = (c * np.arange(1, len(c) + 1)[:, None]).mean(0)
    for place in range(7):
        np.testing.assert_allclose(
            last.test[f"c{place}"], np.full((2,) if seeds > 1 else (), expected[place]), rtol=1e-4, atol=1e-4
        )
    assert np.all(np.abs([last.train[f"c{place}"] for place in range(7)]) > 0.01)


@pytest.fixture(scope="module")
def model():
    return jaxae.fit(linear(), X, y=Y, context=CONTEXT, epochs=2, batch_size=10, progress=False)


def manual(model, y, age, colour):
    """Conditions in model units, by NumPy."""
    scale = model.conditions.scale
    standard = (np.asarray(age) - scale.offset[0]) / scale.factor[0]
    words = np.array(["blue", "dark grey", "red"])
    return np.concatenate([np.eye(3)[y], standard[:, None], np.asarray(colour)[:, None] == words], axis=1)


def test_trained_model_takes_conditions_in_the_units_of_the_data(model):
    words = [" ".join(word.split()) for word in COLOUR]
    c = manual(model, Y, AGE, words).astype(np.float32)
    x = ((X - model.scale.offset) / model.scale.factor).astype(np.float32)
    z = MODEL.apply(model.variables, x, c, method="encode")
    np.testing.assert_allclose(model.encode(X, y=Y, context=CONTEXT), z, rtol=1e-4, atol=1e-5)
    one = manual(model, [2], [31.0], ["red"]).astype(np.float32)
    decoded = MODEL.apply(model.variables, z, np.tile(one, (COUNT, 1)), method="decode")
    expected = model.scale.offset + model.scale.factor * np.asarray(decoded)
    for context in ({"age": 31, "colour": "red"}, {"colour": "red", "age": [31.0] * COUNT}, [31, "red"]):
        np.testing.assert_allclose(model.decode(z, y="2", context=context), expected, rtol=1e-4, atol=1e-4)
    codes = model.sample_codes(new_key(), 2, y=[0, 1], context={"age": AGE[:2], "colour": "red"})
    np.testing.assert_allclose(codes, manual(model, [0, 1], AGE[:2], ["red", "red"])[:, [0, 3]], rtol=1e-4)
    terms = model.terms(X, y=Y, context=CONTEXT)
    np.testing.assert_allclose(terms["c3"], c[:, 3] * np.arange(1, COUNT + 1), rtol=1e-4, atol=1e-4)
    score = model.score(X, y=Y, context=CONTEXT, samples=1)
    np.testing.assert_allclose(score, terms["loss"], rtol=1e-4)
    assert model.evaluate(X, y=Y, context=CONTEXT)["loss"] == pytest.approx(terms["loss"].mean(), rel=1e-5)


def test_split_has_its_own_conditions_and_others_replace_them():
    found = data.from_arrays(X, Y, context=CONTEXT)
    model = jaxae.fit(linear(), found, epochs=1, batch_size=10, progress=False)
    given = covariates.given(found, found.test)
    x = found.test.x * found.scale.factor + found.scale.offset
    np.testing.assert_allclose(model.encode(found.test), model.encode(x, **given), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.reconstruct(found.test), model.reconstruct(x, **given), rtol=1e-4, atol=1e-4)
    assert model.evaluate(found.test)["loss"] == pytest.approx(model.history[-1]["loss"], rel=1e-4)
    other = model.encode(found.test, y=2)
    np.testing.assert_allclose(other, model.encode(x, y=2, context=given["context"]), rtol=1e-4, atol=1e-5)
    assert not np.allclose(other, model.encode(found.test), atol=1e-3)


def test_several_seeds_share_the_conditions():
    every = jaxae.fit(linear(), X, y=Y, context=CONTEXT, epochs=1, batch_size=10, progress=False, seeds=2)
    z = every.encode(X, y=Y, context=CONTEXT)
    decoded = every.decode(z, y=2, context={"age": 30, "colour": "red"})
    samples = every.sample(new_key(), 3, y=[0, 1, 2], context=[30, "red"])
    for i in range(2):
        np.testing.assert_allclose(z[i], every[i].encode(X, y=Y, context=CONTEXT), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(decoded[i], every[i].decode(z[i], y=2, context=[30, "red"]), rtol=1e-4, atol=1e-4)
        of_seed = every[i].sample(new_key(), 3, y=[0, 1, 2], context=[30, "red"])
        np.testing.assert_allclose(samples[i], of_seed, rtol=1e-4, atol=1e-4)


def test_replay_repeats_the_step_with_its_covariates(tmp_path):
    def diverging(variables, batch, key):
        terms, _ = shown(variables, batch, key)
        return {"loss": jnp.where(batch.step > 2, jnp.nan, terms["loss"])}, {}

    experiment = jaxae.Experiment(MODEL, descend(diverging, optax.sgd(1e-3)), shown, conditional=True)
    fields = {"epochs": 2, "batch_size": 10, "progress": False, "workdir": tmp_path, "figures": False}
    with pytest.raises(Diverged, match="step 3"):
        jaxae.fit(experiment, X, y=Y, context=CONTEXT, **fields)
    found = jaxae.replay(tmp_path, experiment)
    assert found.step == 3
    np.testing.assert_allclose(found.batch.context[:, 0], found.batch.x[:, 0], rtol=1e-4, atol=1e-5)  # both are the age
    assert found.nonfinite[0].endswith("loss")


def test_missing_and_unknown_conditions_raise_one_line_errors(model):
    for says, call_it in (
        ("Linear is conditional; pass y, a class of 0, 1, 2", lambda: model.encode(X)),
        ("pass context, covariates age, colour: one for all", lambda: model.score(X, y=1)),
        ("pass y, a class of", lambda: model.decode(np.zeros((2, 2)))),
        ("pass y, a class of", lambda: model.sample(new_key(), 2)),
        ("y=7 is not a class; use one of 0, 1, 2", lambda: model.encode(X, y=7, context=[1, "red"])),
        ("colour=pink is not a category", lambda: model.encode(X, y=1, context=[1, "pink"])),
        ("context has no colour; it has age", lambda: model.encode(X, y=1, context={"age": 3})),
        (
            r"context has shape \(60, 3\); pass 2 columns \(age, colour\)",
            lambda: model.encode(X, y=1, context=[1, 2, 3]),
        ),
        ("age is missing", lambda: model.encode(X, y=1, context=[np.nan, "red"])),
        ("age holds strings", lambda: model.encode(X, y=1, context=["old", "red"])),
    ):
        with pytest.raises(ValueError, match=says) as error:
            call_it()
        assert "\n" not in str(error.value)


SMALL = {"epochs": 1, "batch_size": 10, "progress": False, "hidden": (4,)}


def test_unsuitable_models_and_data_raise_one_line_errors(tmp_path):
    plain = jaxae.fit("vae", X, y=Y, **SMALL)
    table = write(tmp_path / "t.csv", X, **CONTEXT)
    for says, call_it in (
        ("y has no effect on VAE: it is not conditional; omit it", lambda: plain.encode(X, y=1)),
        ("context has no effect on VAE", lambda: plain.decode(np.zeros((1, 2)), context=1)),
        (
            "context=age has no effect: the model is not conditional; use cvae",
            lambda: jaxae.fit("vae", table, context="age", **SMALL),
        ),
        ("context=context has no effect", lambda: jaxae.fit("vae", X, context=AGE, **SMALL)),
        (
            "a conditional model needs classes or covariates, and the data have neither",
            lambda: jaxae.fit("cvae", X, **SMALL),
        ),
        (
            "context=... has no effect on a Dataset",
            lambda: jaxae.fit("cvae", data.from_arrays(X), context=AGE, **SMALL),
        ),
        (
            "the test split has examples of class 9, but the training split has none",
            lambda: jaxae.fit("cvae", data.from_arrays(X, Y, test=X[:2], test_y=[1, 9]), **SMALL),
        ),
        (
            "the test split has examples without a class, but the training split has none; .* pass test_y",
            lambda: jaxae.fit("cvae", data.from_arrays(X, Y, test=X[:2]), **SMALL),
        ),
    ):
        with pytest.raises(ValueError, match=says) as error:
            call_it()
        assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a table with --target and --context."""
    folder = tmp_path_factory.mktemp("cvae")
    path = write(folder / "t.csv", X, **CONTEXT, kind=np.array(["a", "b", "c"])[Y])
    fields = {"data": path, "target": "kind", "context": ("age", "colour"), "figures": "none"}
    config = cvae.Config(epochs=2, batch_size=10, hidden=(4,), latent=2, workdir=str(folder / "run"), **fields)
    run.train(config, cvae.build, "cvae")
    return folder / "run"


@pytest.mark.slow
def test_run_keeps_names_and_scale_of_its_conditions(trained):
    model, found = (
        jaxae.load(trained),
        data.load(str(trained.parent / "t.csv"), target="kind", context=("age", "colour")),
    )
    assert model.conditions[:2] == found.conditions[:2] == (("a", "b", "c"), NAMES)
    assert equal(model.conditions.scale, found.context_scale)
    assert model.history[-1]["loss"] == pytest.approx(model.evaluate(found.test)["loss"], rel=1e-5)
    saved = directory.read(trained / "config.json")
    assert (
        saved["command"]
        == f"jaxae cvae --data {trained.parent}/t.csv --target kind --context age colour"
        + saved["command"].split("colour")[1]
    )
    model.save(trained.parent / "saved")
    assert equal(jaxae.load(trained.parent / "saved").encode(found.test), model.encode(found.test))


def of(words):
    return {name: words[name] for name in ("age", "colour")}


def test_commands_read_conditions_from_new_data(trained, tmp_path, capsys):
    model = jaxae.load(trained)
    words = {"age": AGE[:9], "colour": COLOUR[:9], "kind": np.array(["a", "b", "c"])[Y[:9]]}
    new = write(tmp_path / "new.csv", X[:9], **words)
    for name, apply in (("encode", model.encode), ("reconstruct", model.reconstruct), ("score", model.score)):
        out = tmp_path / f"{name}.npy"
        assert call(name, trained, new, "--out", out) == 0, capsys.readouterr().err
        expected = apply(X[:9], y=words["kind"], context=of(words))
        np.testing.assert_allclose(np.load(out), expected, rtol=1e-3, atol=1e-4)
        assert call(name, trained, new, "--y", "b", "--context", "age=30", "--out", out) == 0
        expected = apply(X[:9], y="b", context={"age": 30, "colour": words["colour"]})
        np.testing.assert_allclose(np.load(out), expected, rtol=1e-3, atol=1e-4)
    bare = write(tmp_path / "bare.csv", X[:9])
    for says, arguments in (
        ("bare.csv has no column age", (bare,)),
        (
            "bare.csv has no classes, on which the model depends; give --y CLASS",
            (bare, "--context", "age=1", "colour=red"),
        ),
        ("--context age; give NAME=VALUE", (new, "--context", "age")),
        ("--context size is not a covariate of the model: one of age, colour", (new, "--context", "size=1")),
        ("--y d is not a class; use one of a, b, c", (new, "--y", "d")),
    ):
        assert call("encode", trained, *arguments, "--out", tmp_path / "z.npy") == 2
        assert says in capsys.readouterr().err.splitlines()[-1]
    assert (
        call("encode", trained, bare, "--y", "a", "--context", "age=30", "colour=red", "--out", tmp_path / "z.npy") == 0
    )


def test_sample_covers_all_conditions_or_those_given(trained, tmp_path, capsys):
    model = jaxae.load(trained)
    assert call("sample", trained, "--n", "20", "--out", tmp_path / "s.csv") == 0
    mean = model.conditions.scale.offset[0]
    assert (
        f"27 samples, 3 for each of 9 conditions, at the mean age={mean:.4g}, [27, 3] float32"
        in capsys.readouterr().out
    )
    with (tmp_path / "s.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [*rows[0]] == ["name", "kind", "age", "colour", "x0", "x1", "x2"]
    assert [(row["kind"], row["colour"]) for row in rows[::3]] == [
        (k, w) for k in "abc" for w in ("blue", "dark grey", "red")
    ]
    y, colour = ([row[name] for row in rows] for name in ("kind", "colour"))
    expected = model.sample(jax.random.key(0), 27, y=y, context={"age": mean, "colour": colour})
    np.testing.assert_allclose(
        [[float(row[f"x{k}"]) for k in range(3)] for row in rows], expected, rtol=1e-3, atol=1e-3
    )
    given = ("--y", "b", "--context", "age=30", "colour=red")
    assert call("sample", trained, "--n", "5", *given, "--out", tmp_path / "s.npy") == 0
    assert "5 samples, [5, 3] float32" in capsys.readouterr().out
    expected = model.sample(jax.random.key(0), 5, y="b", context=[30, "red"])
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_picture_of_samples_has_a_row_for_each_class(tmp_path, capsys):
    model = jaxae.fit("cvae", rng.integers(0, 256, (30, 12, 9)).astype(np.uint8), y=np.arange(30) % 3, **SMALL)
    model.save(tmp_path / "run")
    assert call("sample", tmp_path / "run", "--n", "12", "--out", tmp_path / "s.png") == 0
    assert "12 samples, 4 for each of 3 conditions, 44x42 pixels" in capsys.readouterr().out
    vae = jaxae.fit("vae", X, **SMALL)
    vae.save(tmp_path / "vae")
    for flags, says in (
        (("--y", "3"), "--y 3 has no effect: the model does not depend on a class; omit it"),
        (("--context", "age=3"), "--context age is not a covariate of the model: it depends on no covariates; omit it"),
    ):
        assert call("sample", tmp_path / "vae", *flags, "--out", tmp_path / "s.npy") == 2
        assert says in capsys.readouterr().err


@pytest.mark.slow
def test_encode_reads_classes_of_a_folder_with_the_training_pattern(tmp_path, capsys):
    for number in range(12):
        name = f"{'ab'[number % 2]}-{number}.wav"
        wave = rng.integers(-1000, 1000, 16).astype(np.int16)
        (tmp_path / "train").mkdir(exist_ok=True)
        wavfile.write(tmp_path / "train" / name, 8000, wave)
    fields = {"data": str(tmp_path / "train"), "target_pattern": r"(\w)-\d+\.wav$", "window": 8, "figures": "none"}
    config = cvae.Config(epochs=1, batch_size=8, hidden=(4,), latent=2, workdir=str(tmp_path / "run"), **fields)
    run.train(config, cvae.build, "cvae")
    assert call("encode", tmp_path / "run", tmp_path / "train", "--out", tmp_path / "z.npy") == 0, (
        capsys.readouterr().err
    )
    found = data.load(fields["data"], target_pattern=fields["target_pattern"], window=8)
    assert found.classes == ("a", "b")
    assert len(np.load(tmp_path / "z.npy")) == sum(len(split.x) for split in found.splits)


@pytest.mark.parametrize(
    "values", [np.array(12 * ["2026-01-01"], "datetime64[D]"), np.arange(12) * 1j], ids=["dates", "complex"]
)
def test_covariates_of_other_types_raise(values):
    with pytest.raises(InputError, match="not numbers or strings; convert it, dates to numbers"):
        data.from_arrays(np.random.default_rng(0).normal(size=(12, 3)), context={"when": values})


def test_covariates_without_columns_raise():
    with pytest.raises(InputError, match="context has no columns; omit it"):
        data.from_arrays(np.zeros((12, 3)) + np.arange(12)[:, None], context={})
