"""Real numbers: kinds of arrays, scaling, missing entries, the user's units, for tables, images and series."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxae
from conftest import batch, equal, new_key
from jaxae import data, likelihoods
from jaxae.core.types import Scale
from jaxae.data import scaling
from jaxae.data.classes import labels
from jaxae.data.options import require_valid
from jaxae.errors import InputError
from jaxae.variants import vae

rng = np.random.default_rng(0)
TABLE = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 4)) * [1, 100, 1e-3, 5] + [0, 1e6, 0, -3]
SMALL = {"epochs": 2, "batch_size": 10, "hidden": (8,), "latent": 2, "progress": False}


@pytest.mark.parametrize(
    ("x", "series", "kind", "shape", "real"),
    [
        (np.zeros((9, 4, 5), np.uint8) + np.arange(5, dtype=np.uint8) * 60, False, "image", (4, 5, 1), False),
        (rng.random((9, 4, 5, 3)), False, "image", (4, 5, 3), False),
        (rng.random((9, 4, 5)) > 0.5, False, "image", (4, 5, 1), False),
        (rng.integers(0, 256, (9, 4, 5)), False, "image", (4, 5, 1), False),
        (rng.normal(size=(9, 4, 5)), False, "image", (4, 5, 1), True),
        (rng.normal(size=(9, 4, 5, 2)).astype(np.float16), False, "image", (4, 5, 2), True),
        (rng.random((9, 7)), False, "table", (7,), True),
        (rng.integers(-5, 5, (9, 7)).astype(np.int8), False, "table", (7,), True),
        (rng.random((9, 7)), True, "series", (7, 1), False),
        (rng.normal(size=(9, 7)), True, "series", (7, 1), True),
        (rng.normal(size=(9, 7, 3)).astype(np.float32), True, "series", (7, 3), True),
    ],
)
def test_kind_follows_dtype_rank_and_range(x, series, kind, shape, real):
    class Options(data.Options):
        pass

    Options.series = series
    found = data.from_arrays(x, test=0, options=Options())
    assert (found.kind, found.shape, found.real) == (kind, shape, real)
    assert found.train.x.dtype == (np.uint8 if kind == "image" and not real else np.float32)


def test_table_is_standardized_by_the_moments_of_the_training_split():
    found = data.from_arrays(TABLE[:40], test=TABLE[40:])
    mean, std = TABLE[:40].mean(0), TABLE[:40].std(0)
    np.testing.assert_allclose(found.scale.offset, mean)
    np.testing.assert_allclose(found.scale.factor, std)
    np.testing.assert_allclose(found.train.x, (TABLE[:40] - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.test.x, (TABLE[40:] - mean) / std, rtol=1e-5, atol=1e-6)


def test_images_are_standardized_by_channel_and_series_by_dimension():
    x = rng.normal([0, 50], [1, 9], size=(30, 4, 5, 2))
    found = data.from_arrays(x, test=0)
    np.testing.assert_allclose(found.scale, [x.mean((0, 1, 2)), x.std((0, 1, 2))])
    steps = data.from_arrays(x[:, 0], test=0, kind="series")
    np.testing.assert_allclose(steps.scale, [x[:, 0].mean((0, 1)), x[:, 0].std((0, 1))])


def test_scaling_of_sequences_excludes_their_padding(tmp_path):
    parts = [rng.normal([3, -40], [2, 7], size=(n, 2)) for n in rng.integers(1, 9, 30)]
    np.savez(tmp_path / "s.npz", *parts)
    found = data.load(str(tmp_path / "s.npz"))
    inside = np.arange(found.shape[0])[None] < found.train.lengths[:, None]
    np.testing.assert_allclose(found.train.x[inside].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found.train.x[inside].std(0), 1, rtol=1e-5)
    assert not found.train.x[~inside].any()


@pytest.mark.parametrize("how", ["none", "unit", "standard"])
def test_scale_selects_the_scaling(how):
    found = data.from_arrays(TABLE, test=0, scale=how)
    low, high = TABLE.min(0), TABLE.max(0)
    expected = {
        "none": TABLE,
        "unit": (TABLE - low) / (high - low),
        "standard": (TABLE - TABLE.mean(0)) / TABLE.std(0),
    }[how]
    np.testing.assert_allclose(found.train.x, expected, rtol=1e-5, atol=1e-5)
    assert found.real == (how != "unit")


def test_bytes_can_be_standardized():
    x = rng.integers(0, 256, (30, 4, 5, 3)).astype(np.uint8)
    found = data.from_arrays(x, test=0, scale="standard")
    np.testing.assert_allclose(found.train.x.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.scale.factor, (x / 255).std((0, 1, 2)), rtol=1e-5)


def test_missing_entries_are_zero_in_model_units_and_do_not_count():
    x = np.where(rng.random(TABLE.shape) < 0.3, np.nan, TABLE)
    x[:, 1] = 7.0  # constant
    found = data.from_arrays(x, test=0)
    np.testing.assert_array_equal(found.train.observed, ~np.isnan(x))
    assert found.train.observed.dtype == np.uint8
    assert not found.train.x[np.isnan(x)].any()
    np.testing.assert_allclose(found.scale.offset, np.nanmean(x, axis=0))
    np.testing.assert_allclose(found.scale.factor, [*np.nanstd(x, axis=0)[:1], 1, *np.nanstd(x, axis=0)[2:]])
    assert not found.train.x[:, 1].any()


@pytest.mark.parametrize(
    ("y", "expected", "names"),
    [
        (["b", "a", "", "b"], [1, 0, -1, 1], ("a", "b")),
        ([[7], [3], [3], [1000]], [1, 0, 0, 2], ("3", "7", "1000")),
        ([-1.0, 2.0, np.nan, 2.0], [0, 1, -1, 1], ("-1", "2")),
        ([True, False, True, True], [1, 0, 1, 1], ("False", "True")),
        (np.eye(4)[[3, 0, 0, 2]], [2, 0, 0, 1], ("0", "2", "3")),
    ],
)
def test_classes_are_words_numbers_or_one_hot_rows(y, expected, names):
    (found,), classes = labels([y], [4], "y")
    assert (found.tolist(), classes) == (expected, names)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        ([0.5, 1.0, 2.0, 3.0], "real numbers from 0.5 to 3, not classes"),
        ([[0, 1], [1, 1], [1, 0], [1, 0]], r"its rows are not one-hot; pass y.argmax\(1\)"),
        ([1, 2, 3], r"y has shape \(3,\), not \(4,\)"),
        ([1j, 2, 3, 4], "y is complex128; pass strings or integers"),
    ],
)
def test_other_labels_raise(y, says):
    with pytest.raises(InputError, match=says):
        labels([np.array(y)], [4], "y")


def test_test_split_is_shuffled_and_stratified():
    """Discs and squares alternate, so that every tenth example would be of one kind."""
    y = np.arange(240) % 2
    found = data.from_arrays(rng.normal(size=(240, 3)), y)
    assert np.bincount(found.test.y).tolist() == [12, 12]
    assert len(set(np.diff(np.flatnonzero(np.isin(np.arange(240), found.test.x[:, 0]))))) != 1


@pytest.mark.parametrize(
    "names",
    [("x_train", "y_train", "x_test", "y_test"), ("trainImages", "train_labels", "test_images", "testLabels")],
)
def test_archives_with_training_and_test_arrays_are_read(tmp_path, names):
    x, y = rng.integers(0, 256, (30, 4, 5)).astype(np.uint8), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", **dict(zip(names, (x[:20], y[:20], x[20:], y[20:]), strict=True)))
    found = data.load(str(tmp_path / "a.npz"))
    for split, rows in ((found.train, slice(20)), (found.test, slice(20, 30))):
        np.testing.assert_array_equal(split.x[..., 0], x[rows])
        np.testing.assert_array_equal(split.y, y[rows])


@pytest.mark.parametrize("names", [("X", "Y"), ("data", "target"), ("arr_0", "labels")])
def test_archives_with_other_usual_names_are_read(tmp_path, names):
    x, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", **dict(zip(names, (x, y), strict=True)))
    found = data.load(str(tmp_path / "a.npz"))
    assert (found.kind, len(found.train.x), found.classes) == ("table", 27, ("0", "1", "2"))


def test_log_likelihood_and_errors_are_those_of_the_observed_entries():
    """Against SciPy; the gradient in a missing entry's output is 0."""
    x, seen = jnp.asarray(TABLE[:5], jnp.float32) / 1e6, (rng.random((5, 4)) < 0.6).astype(np.float32)
    outputs = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    normal = likelihoods.Normal(0.7)
    each = stats.norm.logpdf(np.asarray(x, np.float64), np.asarray(outputs, np.float64), 0.7)
    found = likelihoods.log_likelihood(normal, outputs, x, jnp.asarray(seen))
    np.testing.assert_allclose(found, (each * seen).sum(1), rtol=1e-5)
    errors = normal.errors(outputs, x, jnp.asarray(seen))
    np.testing.assert_allclose(
        errors["mse"], ((outputs - x) ** 2 * seen).sum(1) / np.maximum(seen.sum(1), 1), rtol=1e-5
    )
    slope = jax.grad(lambda o: likelihoods.log_likelihood(normal, o, x, jnp.asarray(seen)).sum())(outputs)
    np.testing.assert_array_equal(np.asarray(slope) == 0, seen == 0)


def test_loss_of_a_vae_has_observed_entries_only():
    """-log p(x|z) is the sum over observed entries, against SciPy."""
    model = vae.VAE(*vae.dense((4,), (5,), 2, likelihoods.Normal("learned")))
    params = model.init(new_key(), jnp.zeros((1, 4)))["params"]
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    seen = jnp.asarray(rng.random((6, 4)) < 0.5, jnp.float32)
    examples = batch(x * seen).replace(observed=seen)
    terms, _ = vae.loss(model)({"params": params}, examples, new_key())
    _, z = vae.sample_posterior(model, {"params": params}, examples, new_key())
    mean, log_scale = np.split(np.asarray(model.apply({"params": params}, z, method="outputs"), np.float64), 2, axis=1)
    each = stats.norm.logpdf(np.asarray(x, np.float64), mean, np.exp(log_scale))
    np.testing.assert_allclose(terms["reconstruction"], -(each * np.asarray(seen)).sum(1), rtol=1e-5)


SLOW = ("iwae", "vampprior", "factor_vae", "infovae", "stacked", "aae", "fsq", "vqvae", "strided", "mirrored")


def marked(names):
    """The names as parameters, those in `SLOW` with this mark."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in names]


@pytest.mark.parametrize("name", marked(["vae", "iwae", "vampprior", "tcvae", "factor_vae", "infovae", "beta_vae"]))
def test_variational_experiments_train_on_tables_with_missing_entries(name):
    """Their losses fall, and codes, reconstructions and samples are in the user's units."""
    x = np.where(rng.random(TABLE.shape) < 0.1, np.nan, TABLE)
    fields = {**SMALL, "epochs": 30, "lr": 1e-2}
    if name == "factor_vae":
        fields["discriminator"] = (4,)
    if name == "vampprior":
        fields |= {"components": 5, "kl_warmup": 0.0}
    if name in ("iwae", "vampprior", "infovae"):
        fields["binarize"] = "none"
    model = jaxae.fit(name, x, test=0, **fields)
    assert model.history[-2]["loss"] < model.history[0]["loss"]
    decoded = np.asarray(model.reconstruct(x))
    known = ~np.isnan(x)
    spread = np.nanstd(x, axis=0)
    assert np.mean(np.abs((decoded - x) / spread)[known]) < 1
    assert np.isfinite(model.score(x)).all()
    samples = np.asarray(model.sample(new_key(), 500))
    np.testing.assert_allclose(samples.mean(0), np.nanmean(x, axis=0), atol=1.5 * spread.max(), rtol=0.1)


@pytest.mark.slow
def test_user_units_are_kept_by_saving_and_loading(tmp_path):
    model = jaxae.fit("vae", TABLE, test=0, **SMALL)
    model.save(tmp_path / "run")
    again = jaxae.load(tmp_path / "run")
    assert equal(again.scale, model.scale)
    for call in ("encode", "reconstruct", "score"):
        assert equal(getattr(again, call)(TABLE), getattr(model, call)(TABLE)), call
    shifted = jaxae.fit("vae", 10 * TABLE - 7, test=0, **SMALL)
    np.testing.assert_allclose(shifted.encode(10 * TABLE - 7), model.encode(TABLE), rtol=1e-2, atol=1e-3)
    decoded = (np.asarray(shifted.reconstruct(10 * TABLE - 7), np.float64) + 7) / 10
    np.testing.assert_allclose(decoded, model.reconstruct(TABLE), rtol=1e-3, atol=1e-2)


def test_experiments_without_masks_reject_missing_entries():
    x = np.where(rng.random(TABLE.shape) < 0.1, np.nan, TABLE)
    with pytest.raises(InputError, match="the data have missing entries; use an experiment .*: beta_vae, .* vampprior"):
        jaxae.fit("dense", x, **SMALL)
    model = jaxae.fit("dense", TABLE, test=0, **SMALL)
    with pytest.raises(ValueError, match="the data have missing entries"):
        jaxae.iterate(model.experiment, data.from_arrays(x), epochs=1, batch_size=10)
    with pytest.raises(ValueError, match="examples have NaN"):
        model.encode(x)


PLAIN = {
    "dense": {},
    "simple": {},
    "sparse": {},
    "sigmoid": {},
    "wae": {},
    "aae": {"discriminator": (4,)},
    "stacked": {"epochs": 4, "greedy": 1},
    "tied": {},
    "contractive": {},
    "ksparse": {"latent": 8, "active": 2},
}
NARROW = ("tied", "contractive", "ksparse")  # without hidden layers


@pytest.mark.parametrize("name", marked(PLAIN))
def test_plain_experiments_train_on_real_numbers_by_squared_error(name):
    fields = {key: value for key, value in SMALL.items() if key != "hidden" or name not in NARROW}
    model = jaxae.fit(name, TABLE, test=0, **{**fields, **PLAIN[name]})
    terms = model.terms(TABLE)
    assert "bce" not in terms
    scaled = (TABLE - model.scale.offset) / model.scale.factor
    decoded = (np.asarray(model.reconstruct(TABLE), np.float64) - model.scale.offset) / model.scale.factor
    np.testing.assert_allclose(terms["mse"], ((decoded - scaled) ** 2).mean(1), rtol=2e-2)


@pytest.mark.parametrize("name", marked(["vae", "fsq", "vqvae", "denoising_conv32", "strided", "mirrored"]))
def test_image_experiments_train_on_real_numbers(name):
    x = rng.normal(20, 5, size=(40, 16, 16, 2))
    fields = {"epochs": 1, "batch_size": 10, "progress": False}
    fields |= {"filters": (4, 4)} if name in ("fsq", "vqvae", "denoising_conv32") else {}
    model = jaxae.fit(name, x, test=0, **fields)
    decoded = np.asarray(model.reconstruct(x))
    assert abs(decoded.mean() - 20) < 5


def test_sequence_experiment_trains_on_series_of_any_range():
    x = 50 + 9 * np.sin(np.arange(12)[None] / 2 + rng.uniform(0, 6, (60, 1)))
    model = jaxae.fit("sequence", x, test=0, epochs=20, batch_size=10, hidden=16, latent=4, lr=1e-2, progress=False)
    assert model.shape == (12, 1)
    decoded = np.asarray(model.reconstruct(x[..., None]))[..., 0]
    assert np.mean((decoded - x) ** 2) < 0.5 * x.var()


def test_pixels_are_clipped_to_the_unit_interval():
    x = rng.integers(0, 256, (40, 4, 4)).astype(np.uint8)
    model = jaxae.fit("ksparse", x, test=0, epochs=1, batch_size=10, latent=8, active=2, progress=False)
    far = np.asarray(model.decode(100 * np.asarray(model.encode(x))))
    assert far.min() == 0
    assert far.max() == 1


def test_bernoulli_likelihood_and_binarization_reject_real_numbers():
    with pytest.raises(ValueError, match="likelihood=bernoulli needs data in"):
        jaxae.fit("vae", TABLE, likelihood="bernoulli", **SMALL)
    with pytest.raises(InputError, match="binarize=static is for pixels in"):
        jaxae.fit("vae", TABLE, binarize="static", **SMALL)


@pytest.mark.slow
def test_figures_and_commands_take_real_numbers(tmp_path):
    np.save(tmp_path / "t.npy", np.where(rng.random(TABLE.shape) < 0.1, np.nan, TABLE))
    run = tmp_path / "run"
    jaxae.fit("vae", tmp_path / "t.npy", workdir=run, **SMALL)
    assert (run / "report.html").exists()
    assert {"pairs.png", "worst.png"} < {path.name for path in (run / "figures").iterdir()}
    assert not (run / "figures" / "training").exists()


def test_constant_column_has_a_deviation_of_zero():
    found = scaling.moments(data.Split(np.full((5, 2), 3.0), np.zeros(5, int)))
    assert found.std.tolist() == [0, 0]
    assert isinstance(Scale(found.mean, found.std), Scale)


def test_splits_of_different_ranges_raise():
    x = rng.integers(0, 256, (20, 4, 4)).astype(np.uint8)
    with pytest.raises(InputError, match="has splits of types uint8 and float64; pass all of them as bytes"):
        data.from_arrays(x, test=x / 255)
    with pytest.raises(
        InputError, match=r"training pixels are in .*, but those of another split reach 25\d; scale all alike"
    ):
        data.from_arrays(x / 255, test=x.astype(float))


def test_masked_entries_are_missing():
    masked = np.ma.masked_values(np.where(rng.random(TABLE.shape) < 0.2, -999.0, TABLE), -999.0)
    expected = data.from_arrays(np.where(masked.mask, np.nan, TABLE))
    assert data.from_arrays(masked).fingerprint() == expected.fingerprint()
    model = jaxae.fit("vae", TABLE, **SMALL)
    assert equal(model.encode(masked), model.encode(np.where(masked.mask, np.nan, TABLE)))


def test_series_of_different_lengths_are_accepted_from_python():
    parts = [rng.normal(size=n) for n in (5, 3, 7, 4)]
    for x in (parts, np.array(parts, dtype=object)):
        found = data.from_arrays(x, ["a", "b", "a", "b"], test=0, scale="none")
        assert found.train.lengths.tolist() == [5, 3, 7, 4]
        np.testing.assert_allclose(found.train.x[2, :, 0], parts[2], rtol=1e-6)
        assert found.classes == ("a", "b")
    mixed = data.from_arrays([np.array([1, 2]), np.array([0.5, 1.5, 2.5])], test=0, scale="none")
    np.testing.assert_array_equal(mixed.train.x[1, :, 0], [0.5, 1.5, 2.5])
    levels = data.from_arrays([np.array([0, 255], np.uint8), np.array([51], np.uint8)], test=0)
    np.testing.assert_allclose(levels.train.x[..., 0], [[0, 1], [0.2, 0]], rtol=1e-6)
    with pytest.raises(InputError, match="sequence 1 is empty"):
        data.from_arrays([np.ones(3), np.ones(0)])


@pytest.mark.slow
def test_model_accepts_the_inputs_of_fit():
    """Other integers are bytes, videos are frames; models of real numbers take bytes as numbers."""
    x = rng.integers(0, 256, (20, 4, 5)).astype(np.uint8)
    fields = {**SMALL, "test": 0}
    model = jaxae.fit("dense", x, **fields)
    assert equal(model.encode(x.astype(np.int64)), model.encode(x))
    videos = rng.integers(0, 256, (10, 2, 4, 5, 1)).astype(np.uint8)
    assert equal(model.encode(videos), model.encode(videos.reshape(20, 4, 5, 1)))
    real = jaxae.fit("dense", x.astype(float), **fields)
    assert equal(real.encode(x), real.encode(x.astype(float)))
    standard = jaxae.fit("dense", x, scale="standard", **fields)
    np.testing.assert_allclose(standard.encode(x), standard.encode(x / 255), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "table"}, "kind=table has no effect on a Dataset; pass it"),
        ({"y": np.zeros(60)}, "y=... has no effect on a Dataset"),
    ],
)
def test_reading_options_are_rejected_for_a_dataset(fields, says):
    with pytest.raises(ValueError, match=says):
        jaxae.fit("dense", data.from_arrays(TABLE), **fields, **SMALL)


def test_values_beyond_the_range_of_the_training_split_are_reported():
    found = data.from_arrays(TABLE[:50], test=np.full((1, 4), 1e9), scale="unit")
    assert "4 values outside the range of the training split" in found.notes
    with pytest.raises(InputError, match="has values too large to be scaled"):
        data.from_arrays(np.where(TABLE.max() == TABLE, 1e300, TABLE))


def test_options_are_checked():
    with pytest.raises(InputError, match="window=-5 must be at least 0"):
        data.from_arrays(TABLE, window=-5)
    options = data.Options()
    object.__setattr__(options, "scale", "foo")  # type hints are checked in tests only
    with pytest.raises(InputError, match="scale=foo must be one of auto, none, unit, standard"):
        require_valid(options)


@pytest.mark.slow
def test_model_takes_a_complete_split():
    """A split is in model units, unlike an array."""
    x = np.where(rng.random(TABLE.shape) < 0.2, np.nan, TABLE)
    dataset = data.from_arrays(x, test=0)
    model = jaxae.fit("vae", dataset, **SMALL)
    for call in ("encode", "reconstruct", "score"):
        split, array = (np.asarray(getattr(model, call)(given)) for given in (dataset.test, x))
        np.testing.assert_allclose(split, array, rtol=1e-3, atol=1e-5, err_msg=call)
    assert model.evaluate(dataset.test)["loss"] == pytest.approx(model.history[-1]["loss"], rel=1e-4)
    images = data.load("digits")
    pixels = jaxae.fit("dense", images, epochs=1, hidden=(8,), latent=2, progress=False)
    assert equal(pixels.encode(images.test), pixels.encode(images.test.x))


@pytest.mark.slow
def test_model_takes_a_list_of_series():
    parts = [rng.normal(size=(n, 2)) for n in (5, 3, 7, 4)]
    model = jaxae.fit("sequence", parts, test=0, epochs=1, batch_size=2, hidden=4, latent=3, progress=False)
    padded = np.stack([np.pad(part, ((0, 7 - len(part)), (0, 0))) for part in parts])
    lengths = np.array([5, 3, 7, 4])
    assert equal(model.encode(parts), model.encode(padded, lengths))
    assert equal(model.score(parts), model.score(padded, lengths=lengths))
    with pytest.raises(ValueError, match=r"series have shapes \[\(9, 2\)\], not \[T, 2\] with T at most 7"):
        model.encode([np.zeros((9, 2))])
    with pytest.raises(InputError, match="examples is a path; pass an array"):
        model.encode("parts.npz")


@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        ("table", "auto"),
        ("series", "standard"),
        *(
            pytest.param(kind, scale, marks=pytest.mark.slow)
            for kind, scale in (("table", "unit"), ("series", "auto"), ("series", "unit"))
        ),
    ],
)
def test_integers_of_every_type_are_in_the_units_of_the_user(kind, scale):
    """Bytes of a table are numbers; bytes of series are pixels, which are scaled on request."""
    x = rng.integers(0, 256, (40, 6), np.uint8)
    dataset = data.from_arrays(x, test=0.25, kind=kind, scale=scale)
    model = jaxae.fit(
        "vae", x, test=0.25, kind=kind, scale=scale, epochs=2, batch_size=10, optimizer="adam", progress=False
    )
    whole = dataset.test.x if dataset.scale is None else dataset.scale.offset + dataset.scale.factor * dataset.test.x
    if kind == "series":
        whole = 255 * whole
    rows = np.round(whole).astype(np.uint8).reshape(len(whole), -1)
    assert sorted(map(tuple, rows)) == sorted(set(map(tuple, rows)) & set(map(tuple, x)))
    np.testing.assert_allclose(model.score(rows), model.score(dataset.test), rtol=1e-4)
    if kind == "table":
        for other in (np.int64, np.float64):
            again = jaxae.fit(
                "vae",
                x.astype(other),
                test=0.25,
                scale=scale,
                epochs=2,
                batch_size=10,
                optimizer="adam",
                progress=False,
            )
            np.testing.assert_allclose(again.score(x.astype(other)), model.score(x), rtol=1e-5)
        assert np.asarray(model.reconstruct(x)).mean() == pytest.approx(x.mean(), abs=60)


def test_unscaled_bytes_of_a_table_are_numbers():
    x = rng.integers(0, 256, (40, 6), np.uint8)
    found = data.from_arrays(x, scale="none", test=0)
    np.testing.assert_array_equal(found.train.x, x)
    assert found.real
    model = jaxae.fit("vae", x, test=0, scale="none", epochs=1, batch_size=10, progress=False)
    np.testing.assert_allclose(model.score(x), model.score(found.train), rtol=1e-5)


@pytest.mark.parametrize("test", [0, 0.2])
def test_summary_counts_examples_without_a_class_and_missing_entries_once(test):
    x = rng.normal(size=(20, 2))
    x[3, 1] = np.nan
    said = data.summary(data.from_arrays(x, ["a", "", "b", "a"] * 5, test=test))
    assert "2 classes (5 examples without a class)" in said
    assert "1 missing entry" in said


def test_data_set_prints_as_one_line():
    x = rng.normal(size=(20, 2))
    found = data.from_arrays(x, ["a", "b"] * 10, test=0.2, valid=0.1)
    assert repr(found) == "Dataset(table, 15 training, 1 validation, 4 test, (2,), 2 classes)"
