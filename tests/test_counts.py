"""Counts: reading, refusals, models of them and the units of their results."""

import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

import jaxae
from conftest import apply, compiled, equal, initial, new_key
from jaxae import data
from jaxae.errors import InputError
from jaxae.likelihoods import NegativeBinomial, Normal, Poisson, log_likelihood
from jaxae.variants import vae
from jaxae.variants.vampprior import VampVAE

rng = np.random.default_rng(0)
RATES = np.array([[30.0, 0.5, 2.0, 0.0, 4.0], [1.0, 8.0, 2.0, 0.2, 90.0]])
WHICH = np.arange(80) % 2
COUNTS = rng.poisson(RATES[WHICH] * rng.gamma(4, 0.25, (80, 1)))
MISSING = np.where(rng.random(COUNTS.shape) < 0.1, np.nan, COUNTS)
SMALL = {"epochs": 2, "batch_size": 10, "hidden": (8,), "latent": 2, "progress": False, "kind": "counts"}
NAMES = ("a", "b", "c", "d", "e")


def group_of(number):
    return np.arange(80) % 2 == number


def table(x):
    columns = {name: pyarrow.array(x[:, i], mask=np.isnan(x[:, i])) for i, name in enumerate(NAMES)}
    return pyarrow.table(columns | {"cell": np.array(["t", "b"])[WHICH]})


@pytest.mark.parametrize("x", [COUNTS, COUNTS.astype(np.uint16), COUNTS.astype(np.float32), MISSING])
def test_counts_stay_as_they_are(x):
    found = data.from_arrays(x, test=0, kind="counts")
    assert (found.kind, found.shape, found.real, found.scale) == ("counts", (5,), True, None)
    assert found.train.x.dtype == np.float32
    np.testing.assert_array_equal(found.train.x, np.nan_to_num(x))
    assert (found.train.observed is None) == (x is not MISSING)
    if x is MISSING:
        np.testing.assert_array_equal(found.train.observed, ~np.isnan(x))
    assert found.total == found.info.total == pytest.approx(np.nansum(x) / 80, rel=1e-12)
    assert found.info.counts


def test_bytes_of_counts_are_not_divided():
    x = np.minimum(COUNTS, 255).astype(np.uint8)
    found = data.from_arrays(x, test=0, kind="counts", scale="none")
    np.testing.assert_array_equal(found.train.x, x)
    assert not data.from_arrays(x, test=0).info.counts


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv", "parquet"])
def test_every_source_of_counts_gives_the_same_data(suffix, tmp_path):
    path, fields = tmp_path / f"x.{suffix}", {"kind": "counts"}
    if suffix == "npy":
        np.save(path, MISSING)
    elif suffix == "npz":
        np.savez(path, x=MISSING, y=np.array(["t", "b"])[WHICH])
    else:
        write = pyarrow.csv.write_csv if suffix == "csv" else pyarrow.parquet.write_table
        write(table(MISSING), path)
        fields["target"] = "cell"
    found = data.load(str(path), test="0", **fields)
    expected = data.from_arrays(MISSING, test=0, kind="counts")
    assert (found.kind, found.total) == ("counts", expected.total)
    assert equal(found.train.x, expected.train.x)
    assert equal(found.train.observed, expected.train.observed)
    assert found.classes == (("b", "t") if suffix != "npy" else ())
    assert found.features == (NAMES if suffix in ("csv", "parquet") else ())
    assert "80 test rows of 5 counts" in data.summary(found)
    assert "mean total" in data.summary(found)


def test_columns_of_a_data_frame_name_the_counts():
    frame = pandas.DataFrame(MISSING, columns=NAMES)
    assert data.from_arrays(frame, test=0, kind="counts").features == NAMES


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-1.0, r"index 2 of the last axis has -1, which is not a count from 0 to 16,777,216; leave it out, or use"),
        (0.5, r"index 2 of the last axis has 0\.5, which is not a count"),
        (2.0**24 + 2, "index 2 of the last axis has 16777218, which is not a count"),
        (np.inf, "infinite values"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_other_numbers_are_not_counts(value, says, split):
    x = MISSING.copy()
    x[7, 2] = value
    train, test = (x, MISSING) if split == "train" else (MISSING, x)
    with pytest.raises(InputError, match=says):
        data.from_arrays(train, test=test, kind="counts")


def test_messages_name_the_column(tmp_path):
    x = MISSING.copy()
    x[7, 2] = 0.5
    pyarrow.csv.write_csv(table(x), tmp_path / "x.csv")
    with pytest.raises(InputError, match=r"column c has 0\.5, which is not a count"):
        data.load(str(tmp_path / "x.csv"), kind="counts", target="cell")
    with pytest.raises(InputError, match="column cell has strings, not counts; use drop=cell, or target=cell"):
        data.load(str(tmp_path / "x.csv"), kind="counts")


@pytest.mark.parametrize(
    ("x", "fields", "says"),
    [
        (COUNTS, {"scale": "standard"}, "scale=standard has no effect on counts, which are not scaled; omit it"),
        (COUNTS, {"scale": "unit"}, "scale=unit has no effect on counts"),
        (COUNTS, {"binarize": "static"}, "binarize=static is for pixels in .*, not for counts; use none"),
        (0 * COUNTS, {}, "all counts of the training split are 0: there is nothing to learn"),
        (COUNTS[:, 0], {}, r"shape \(80,\) is not a table"),
        (COUNTS.reshape(8, 5, 10), {}, r"shape \(8, 5, 10\) is not a table"),
    ],
)
def test_options_and_shapes_that_do_not_apply_to_counts_raise(x, fields, says):
    with pytest.raises(InputError, match=says):
        data.from_arrays(x, test=0, kind="counts", **fields)


def vae_of(dataset):
    return jaxae.fit("vae", dataset, epochs=1, batch_size=10, hidden=(8,), latent=2, progress=False)


def test_experiments_without_a_likelihood_for_counts_reject_them():
    says = "the data are counts; use kind=table, or an experiment that models them: beta_vae, .*vampprior"
    with pytest.raises(InputError, match=says) as error:
        jaxae.fit("dense", COUNTS, **SMALL)
    assert "vqvae" not in str(error.value)
    model = jaxae.fit("dense", COUNTS, test=0, **{**SMALL, "kind": "table"})
    dataset = data.from_arrays(COUNTS, test=0, kind="counts")
    with pytest.raises(ValueError, match="the data are counts, but the loss of this experiment is for other data"):
        jaxae.iterate(model.experiment, dataset, epochs=1, batch_size=10)
    with pytest.raises(ValueError, match="the experiment is for counts, but the data are not counts"):
        jaxae.iterate(vae_of(dataset).experiment, data.from_arrays(COUNTS, test=0), epochs=1, batch_size=10)
    with pytest.raises(ValueError, match="likelihood=normal needs pixels or real numbers .*use one of poisson, neg"):
        jaxae.fit("vae", COUNTS, likelihood="normal", **SMALL)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("iwae", "vampprior", "tcvae", "factor_vae", "infovae")]


@pytest.mark.parametrize("name", ["vae", *SLOW])
def test_variational_experiments_train_on_counts_with_missing_entries(name):
    """Their losses fall, and reconstructions are expected counts, which separate the two groups of examples."""
    fields = {**SMALL, "epochs": 40, "lr": 1e-2}
    if name == "tcvae":
        fields |= {"beta": 1.0, "batch_size": 40, "epochs": 200}  # it estimates q(z) from the batch
    if name == "factor_vae":
        fields |= {"discriminator": (4,), "gamma": 1.0}
    if name == "vampprior":
        fields |= {"components": 5, "kl_warmup": 0.0}
    if name in ("iwae", "vampprior", "infovae"):
        fields["binarize"] = "none"
    model = jaxae.fit(name, MISSING, test=0, **fields)
    assert model.history[-2]["loss"] < model.history[0]["loss"]
    decoded = np.asarray(model.reconstruct(MISSING))
    assert decoded.min() >= 0
    assert decoded[group_of(0), 0].mean() > 1.3 * decoded[group_of(1), 0].mean()
    assert np.isfinite(model.score(MISSING)).all()
    samples = np.asarray(model.sample(new_key(), 500))
    np.testing.assert_allclose(np.log1p(samples.mean(0)), np.log1p(np.nanmean(MISSING, axis=0)), atol=1)


def test_loss_of_counts_has_their_size_factor():
    dataset = data.from_arrays(MISSING, test=0, kind="counts")
    model = vae_of(dataset)
    likelihood = model.experiment.model.likelihood
    assert likelihood == NegativeBinomial(dataset.total)
    assert model.terms(MISSING).keys() == {"loss", "reconstruction", "kl", "mse", "inverse_dispersion"}
    x, seen = jnp.asarray(dataset.test.x), jnp.asarray(dataset.test.observed, jnp.float32)
    codes = model.encode(MISSING)
    outputs = apply(model.experiment.model, model.variables, codes, method="outputs")
    np.testing.assert_allclose(model.decode(codes), compiled(likelihood, "mean", outputs), rtol=1e-6)
    at_mean = -np.asarray(jax.jit(log_likelihood, static_argnums=0)(likelihood, outputs, x, seen))
    assert np.corrcoef(at_mean, model.terms(MISSING)["reconstruction"])[0, 1] > 0.9


def test_decoder_of_counts_starts_at_their_mean():
    info = data.from_arrays(COUNTS, test=0, kind="counts").info
    for name in ("vae", "tcvae", "infovae", "factor_vae", "vampprior", "iwae"):
        module = importlib.import_module(f"jaxae.experiments.{name}")
        model = module.build(module.Config(hidden=(4,), latent=2), info).model

        @jax.jit
        def start(key, model=model):
            return model.apply(model.init(key, jnp.ones((1, 5))), jnp.zeros((1, 2)), method="decode")[0]

        np.testing.assert_allclose(start(new_key()), np.maximum(COUNTS.mean(0), 1e-3), rtol=1e-5, err_msg=name)


def test_pseudo_inputs_of_counts_are_not_negative():
    """log(1 + x) is NaN below -1."""
    model = VampVAE(*vae.dense((5,), (), 2, Poisson()), shape=(5,), components=3, limits=(0.0, np.inf))
    params = initial(model, np.ones((1, 5)))["params"]
    params["pseudo_inputs"] = np.tile(np.float32([-7.0, 0.0, 3.0, 300.0, -1.0]), (3, 1))
    found = jax.tree.map(np.asarray, apply(model, {"params": params}, method="mixture"))
    clipped = np.float32([[0.0, 0.0, 3.0, 300.0, 0.0]])
    expected = apply(model, {"params": params}, clipped, method="posterior")
    np.testing.assert_allclose(found.mean[:1], expected.mean, rtol=1e-6)


@pytest.mark.slow
def test_models_of_counts_are_saved_and_loaded_and_check_their_input(tmp_path):
    np.save(tmp_path / "x.npy", MISSING)
    run = tmp_path / "run"
    model = jaxae.fit("vae", tmp_path / "x.npy", workdir=run, log_likelihood_samples=5, **SMALL)
    again = jaxae.load(run)
    assert json.loads((run / "config.json").read_text())["data"]["kind"] == "counts"
    total = data.load(str(tmp_path / "x.npy"), kind="counts").total
    assert again.experiment.model.likelihood == NegativeBinomial(total)
    for call in ("encode", "reconstruct", "score"):
        assert equal(getattr(again, call)(MISSING), getattr(model, call)(MISSING)), call
    for wrong in (-COUNTS, COUNTS + 0.5):
        with pytest.raises(ValueError, match="examples must be counts, integers from 0 to 16,777,216, or NaN"):
            model.score(wrong)
    assert {"pairs.png", "columns.png", "samples.png"} <= {p.name for p in (run / "figures").iterdir()}
    assert (run / "report.html").exists()
    assert np.isfinite(json.loads((run / "result.json").read_text())["likelihood"]["log_likelihood"])


@pytest.mark.slow
def test_poisson_vae_recovers_the_rates_of_two_groups():
    """The size factor explains the totals: decoded means have the mean total, in the proportions of the group."""
    fields = {**SMALL, "epochs": 150, "lr": 1e-2, "latent": 1}
    model = jaxae.fit("vae", COUNTS, test=0, likelihood="poisson", **fields)
    decoded = np.asarray(model.reconstruct(COUNTS))
    for group in (0, 1):
        mean = decoded[group_of(group)].mean(0)
        np.testing.assert_allclose(mean / mean.sum(), RATES[group] / RATES[group].sum(), atol=0.04)
        np.testing.assert_allclose(mean.sum(), COUNTS.sum(1).mean(), rtol=0.1)


def test_counts_are_never_guessed():
    model = jaxae.fit("vae", COUNTS, test=0, **{**SMALL, "kind": "auto"})
    assert model.experiment.model.likelihood == Normal("learned")
