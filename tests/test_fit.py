"""`jaxae.fit`: from an array to a trained model, in memory and with a run directory."""

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from conftest import equal, new_key
from jaxae.core.divergences import per_example
from jaxae.errors import InputError
from jaxae.experiments import denoising, dense, sequence, vae
from jaxae.training import optimizers, records
from jaxae.training.checkpoint import newest_digests

ROOT = Path(__file__).parents[1]
SMALL = {"hidden": (16,), "latent": 2, "batch_size": 32, "progress": False}


@pytest.fixture(scope="module")
def x():
    """200 digits, uint8 [200, 28, 28, 1]."""
    return jaxae.data.load("digits").train.x[:200]


@pytest.mark.slow
def test_fitted_seeds_encode_sample_score_save_and_load(x, tmp_path):
    """Four seeds from an array."""
    model = jaxae.fit(vae, x, latent=3, epochs=2, seeds=4, hidden=(16,), batch_size=32, progress=False)
    codes, images = model.encode(x), model.sample(new_key(), 5)
    assert codes.shape == (4, 200, 3)
    assert images.shape == (4, 5, 28, 28, 1)
    assert model.score(x).shape == (4, 200)
    model.save(tmp_path / "mine")
    again = jaxae.load(tmp_path / "mine")
    assert equal(again.encode(x), codes)
    assert equal(again[2].encode(x), model[2].encode(x))
    assert again.history == list(model.history)
    assert repr(again) == "Trained(VAE, (28, 28, 1) -> (3,), seeds 0 to 3, epoch 2)"
    assert repr(again[2]) == "Trained(VAE, (28, 28, 1) -> (3,), seed 2, epoch 2)"


@pytest.mark.slow
def test_methods_of_several_seeds_equal_those_of_each_seed(x):
    model = jaxae.fit(vae, x, epochs=1, seeds=3, **SMALL)
    z = model.encode(x[:5])
    for i in range(3):
        one = model[i]
        np.testing.assert_allclose(z[i], one.encode(x[:5]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.decode(z)[i], one.decode(z[i]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.decode(z[0])[i], one.decode(z[0]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.reconstruct(x[:5])[i], one.reconstruct(x[:5]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.sample(new_key(), 2)[i], one.sample(new_key(), 2), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.score(x[:5], by="kl")[i], one.score(x[:5], by="kl"), rtol=1e-4)
        assert [line["loss"] for line in one.history] == [line["loss"]["seeds"][i] for line in model.history]
    with pytest.raises(IndexError):
        model[3]
    with pytest.raises(ValueError, match="loss, mse"):
        model.score(x[:5], by="surprise")


@pytest.mark.slow
def test_evaluate_repeats_the_metrics_of_training(x):
    """The noise of an evaluation is a function of seed and example."""
    test = x[150:]
    model = jaxae.fit(vae, x[:150], test=test, epochs=2, seed=3, seeds=2, **SMALL)
    found, last = model.evaluate(test), model.history[-1]
    assert last["split"] == "test"
    for name, value in found.items():
        np.testing.assert_allclose(value, records.each(last[name]), rtol=1e-5)
    noisy = jaxae.fit(denoising, x[:150], test=test, epochs=1, filters=(4, 4), batch_size=32, progress=False)
    np.testing.assert_allclose(noisy.evaluate(test)["loss"], noisy.history[-1]["loss"], rtol=1e-5)


@pytest.mark.slow
def test_fit_with_a_workdir_equals_the_command(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    flags = ["--data", str(tmp_path / "x.npy"), "--epochs", "2", "--hidden", "16", "--batch-size", "32"]
    command = [sys.executable, "-m", "jaxae", "vae", *flags, "--figures", "none", "--workdir", str(tmp_path / "a")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    fields = {"epochs": 2, "hidden": [16], "batch_size": 32, "progress": False, "figures": False}
    model = jaxae.fit("vae", tmp_path / "x.npy", workdir=tmp_path / "b", **fields)
    a, b = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert a["config"].pop("workdir") != b["config"].pop("workdir")
    assert {**a, "command": ""} == {**b, "command": ""}
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "b/metrics.jsonl").read_bytes()
    assert newest_digests(tmp_path / "a/checkpoints") == newest_digests(tmp_path / "b/checkpoints")
    in_memory = jaxae.fit(vae, tmp_path / "x.npy", **fields)
    assert equal(in_memory.params, model.params)
    assert in_memory.history == model.history


def test_without_a_workdir_nothing_is_written(x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jaxae.fit(dense, x, epochs=1, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_workdir_is_resumed_with_the_same_array_only(x, tmp_path):
    fields = {"epochs": 2, "figures": False, "workdir": tmp_path / "run", **SMALL}
    first = jaxae.fit(dense, x, **fields)
    assert equal(jaxae.fit(dense, x, **fields).params, first.params)
    with pytest.raises(InputError, match="the data have changed"):
        jaxae.fit(dense, x[::-1].copy(), **fields)


def test_test_split_is_a_tenth_a_fraction_or_the_training_examples(x, capsys):
    model = jaxae.fit(dense, x, epochs=1, **{**SMALL, "progress": True})
    assert "180 training and 20 test images of 28x28x1, bytes from 0 to 255 (a tenth" in capsys.readouterr().out
    assert model.history[-1]["step"] == 6  # six steps of 32 of 180 examples
    assert jaxae.fit(dense, x, test=0.5, epochs=1, **SMALL).history[-1]["step"] == 4
    everything = jaxae.fit(dense, x, test=0, epochs=1, **SMALL)
    np.testing.assert_allclose(everything.evaluate(x)["loss"], everything.history[-1]["loss"], rtol=1e-5)
    classes = jaxae.data.from_arrays(x, np.arange(200) % 4, test=0.25)
    assert np.bincount(classes.test.y).tolist() == [12, 13, 12, 13]
    with pytest.raises(InputError, match="must be a fraction"):
        jaxae.fit(dense, x, test=1.5, epochs=1, **SMALL)


def test_test_is_the_test_split_of_a_named_data_set_or_all_examples_of_a_path(x, tmp_path):
    np.save(tmp_path / "test.npy", x[:7])
    for test, expected in (("digits", jaxae.data.load("digits").test.x), (tmp_path / "test.npy", x[:7])):
        model = jaxae.fit(dense, x, test=test, epochs=1, **SMALL)
        np.testing.assert_allclose(model.evaluate(expected)["loss"], model.history[-1]["loss"], rtol=1e-5)


def test_numpy_scalars_are_accepted_as_numbers(x, untyped):
    model = jaxae.fit(dense, x, epochs=np.int64(1), seeds=np.int64(2), lr=np.float32(1e-3), **SMALL)
    assert len(model) == 2
    snapshots = jaxae.iterate(own(), jaxae.data.from_arrays(x), epochs=1, batch_size=90, every=np.int64(1))
    assert [snapshot.step for snapshot in snapshots] == [1, 2, 2]


def test_batch_larger_than_the_split_becomes_the_split(x, capsys):
    model = jaxae.fit(dense, x, test=0, epochs=3, batch_size=1000, hidden=(16,))
    assert "batch_size=1000 exceeds the training split; using 200" in capsys.readouterr().out
    assert model.history[-1]["step"] == 3


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"laten": 3}, TypeError, "laten is not a field .* did you mean latent"),
        ({"latent": "three"}, TypeError, "latent='three' must be int"),
        ({"hidden": 64}, TypeError, "hidden=64 must be tuple"),
        ({"epochs": 0}, ValueError, "epochs=0 must be at least 1"),
        ({"context": [1]}, ValueError, r"covariate context has shape \(1,\), not \(200,\): one per example"),
        ({"valid": 1.5}, ValueError, "valid=1.5 must be a fraction below 1, a number of examples, or a path"),
        ({"optimizer": "adamm"}, TypeError, "optimizer='adamm' must be one of adam, adamw"),
        ({"ema": 1.0}, ValueError, "ema"),
        ({"schedule": "cosine", "warmup_steps": 10_000}, ValueError, "warmup.steps"),
        ({"learning_rate": 1.0}, TypeError, "learning_rate is not a field .* did you mean lr?"),
        ({"lr": optax.constant_schedule(1.0)}, TypeError, r"must be float; .* optimizer=optax.adam\(schedule\)"),
        ({"optimizer": optax.adam}, TypeError, "must be one of adam, .* or an Optax transformation"),
        ({"optimizer": optax.adam(1e-3), "lr": 5.0}, ValueError, "lr=5.0 has no effect"),
        ({"optimizer": optax.adam(1e-3), "schedule": "cosine"}, ValueError, "schedule=cosine has no effect"),
        ({"seeds": 2.0}, TypeError, "seeds=2.0 must be an int"),
        ({"seeds": np.float64(2.0)}, TypeError, "seeds=2.0 must be an int"),
        ({"workdir": 3}, TypeError, "workdir=3 must be a path"),
        ({"figures": "none"}, TypeError, "figures='none' must be a bool"),
    ],
)
def test_bad_arguments_are_named_in_the_error(x, fields, kind, said, untyped):
    with pytest.raises(kind, match=said):
        jaxae.fit(vae, x, **{"epochs": 1, **SMALL, **fields})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: jaxae.fit(x, vae), "experiment has type ndarray; pass a name"),
        (lambda x: jaxae.fit(Linear(), x), r"experiment has type Linear; .* jaxae.Experiment\(model, jaxae.descend"),
        (lambda x: jaxae.Experiment(Linear(), optax.adam(1e-3), squared), "train is a Gradient.*, not a Transition"),
        (lambda x: jaxae.Experiment(Linear(), jaxae.descend(squared, optax.sgd(1.0)), None), "evaluate must be a loss"),
        (lambda x: jaxae.Experiment(nn.Module(), jaxae.descend(squared, optax.sgd(1.0)), squared), "no __call__"),
        (lambda x: jaxae.descend(squared, optax.adam), "not an Optax transformation; pass an instance"),
        (lambda x: jaxae.iterate(own(), x, epochs=1, batch_size=32), "data has type ndarray, not Dataset"),
        (lambda x: jaxae.iterate("vae", jaxae.data.from_arrays(x), epochs=1, batch_size=32), "experiment has type str"),
        (lambda x: jaxae.iterate(own(), jaxae.data.from_arrays(x), epochs=1.5, batch_size=32), "epochs=1.5 must be an"),
    ],
)
def test_arguments_of_wrong_types_raise_with_the_expected_type(x, call, said, untyped):
    with pytest.raises(TypeError, match=said):
        call(x)


def test_unknown_experiment_raises_and_suggests_the_nearest(x):
    with pytest.raises(ValueError, match=r"experiment=vaee is unknown; did you mean vae\?"):
        jaxae.fit("vaee", x)
    with pytest.raises(ValueError, match="experiment=zzz is unknown; use one of aae, .*, wae"):
        jaxae.fit("zzz", x)


@pytest.mark.slow
def test_experiments_for_images_reject_sequences(tmp_path):
    np.savez(tmp_path / "s.npz", x=np.zeros((160, 2), np.float32), lengths=np.tile([3, 5], 20))
    with pytest.raises(InputError, match="holds sequences"):
        jaxae.fit(vae, tmp_path / "s.npz", epochs=1, **SMALL)
    model = jaxae.fit(sequence, tmp_path / "s.npz", epochs=1, hidden=4, latent=2, batch_size=8, progress=False)
    assert model.encode(np.zeros((3, 5, 2), np.float32), np.array([1, 2, 5])).shape == (3, 2)
    assert model.terms(np.zeros((3, 5, 2), np.float32), np.array([1, 2, 5]))["loss"].shape == (3,)


class Linear(nn.Module):
    """A linear encoder with tied weights."""

    @nn.compact
    def __call__(self, x):
        flat = x.reshape(len(x), -1)
        return nn.Dense(flat.shape[1], name="decoder")(nn.Dense(2, name="encoder")(flat)).reshape(x.shape)

    def encode(self, x):
        return self(x).reshape(len(x), -1)[:, :2]

    def decode(self, z):
        return jnp.zeros((len(z), 28, 28, 1)) + z.mean()


def squared(variables, batch, key):
    return {"loss": per_example((Linear().apply(variables, batch.x) - batch.x) ** 2)}, {}


@pytest.mark.slow
def test_loss_and_optax_chain_train_without_a_config(x, tmp_path):
    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-2, 12)))
    experiment = jaxae.Experiment(Linear(), train=jaxae.descend(squared, chain), evaluate=squared)
    data = jaxae.data.from_arrays(x[:150], test=x[150:])
    model = jaxae.fit(experiment, data, epochs=3, batch_size=50, progress=False)
    tests = [line["loss"] for line in model.history if line["split"] == "test"]
    assert tests == sorted(tests, reverse=True)
    # The same loop in plain Optax.
    params = Linear().init(jax.random.fold_in(jax.random.key(0), 0), jnp.zeros((1, 28, 28, 1)))["params"]
    state, rng = chain.init(params), np.random.default_rng((0, 0))
    orders = np.concatenate([np.random.default_rng((0, e)).permutation(150) for e in range(3)])
    del rng
    for step in range(9):
        images = jnp.asarray(x[orders[50 * step :][:50]] / np.float32(255))

        def mean(params, images=images):
            return squared({"params": params}, jaxae.Batch(images, None, None, None), None)[0]["loss"].mean()

        updates, state = chain.update(jax.grad(mean)(params), state, params)
        params = optax.apply_updates(params, updates)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)
    model.save(tmp_path / "linear")
    assert equal(jaxae.load(tmp_path / "linear", experiment).params, model.params)
    with pytest.raises(InputError, match="a jaxae.Experiment, Linear; pass it to jaxae.load"):
        jaxae.load(tmp_path / "linear")


def own(loss=squared, optimizer=None):
    return jaxae.Experiment(Linear(), jaxae.descend(loss, optimizer or optax.adam(1e-2)), loss)


@pytest.mark.slow
def test_workdir_of_another_loss_or_optimizer_raises(x, tmp_path):
    """Its files are kept."""

    def tenfold(variables, batch, key):
        return {"loss": 10 * squared(variables, batch, key)[0]["loss"]}, {}

    fields = {"batch_size": 50, "progress": False, "figures": False, "workdir": tmp_path / "run"}
    jaxae.fit(own(), x, epochs=1, **fields)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for other in (own(optimizer=optax.sgd(1e-2)), own(optimizer=optax.adam(2e-2)), own(tenfold)):
        for epochs in (1, 2):
            with pytest.raises(InputError, match="holds another run: the model, the loss or the optimizer of Linear"):
                jaxae.fit(other, x, epochs=epochs, **fields)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    once = jaxae.fit(own(), x, epochs=2, batch_size=50, progress=False)
    assert equal(jaxae.fit(own(), x, epochs=2, **fields).params, once.params)


@pytest.mark.parametrize("field", [{"lr": 1.0}, {"optimizer": "sgd"}, {"clip": 0.1}, {"precision": "mixed"}], ids=str)
def test_fields_that_an_experiment_does_not_read_raise(x, field):
    with pytest.raises(ValueError, match="has no effect with a custom optimizer"):
        jaxae.fit(own(), x, epochs=1, **field)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_processes": 2}, "num_processes=2 has no effect in fit, which trains in one process; omit it"),
        ({"coordinator": "nowhere:1"}, "coordinator=nowhere:1 has no effect in fit, which trains in one process"),
        ({"process_id": 1, "workdir": "run"}, "process_id=1 has no effect in fit, which trains in one process"),
        ({"heartbeat": 5}, "heartbeat=5 has no effect in fit, which trains in one process"),
        (
            {"patience": 5},
            "patience=5 has no effect in fit, where it is a timeout between processes; for early stopping use",
        ),
        ({"summary": True, "workdir": "run"}, "summary=True has no effect in fit; omit it"),
        ({"overwrite": True}, "overwrite=True has no effect without a run directory; omit it, or pass workdir="),
        ({"checkpoint_every": 2}, "checkpoint_every=2 has no effect without a run directory"),
        ({"checkpoint_unit": "steps"}, "checkpoint_unit=steps has no effect without a run directory"),
        ({"picture_every": 5}, "picture_every=5 has no effect without a run directory"),
        ({"log_likelihood_samples": 5}, "log_likelihood_samples=5 has no effect without a run directory"),
        ({"figures": True}, "figures=True has no effect without a run directory"),
        ({"picture_every": 5, "figures": False, "workdir": "run"}, "picture_every=5 has no effect with figures=False"),
        ({"data_dir": "sets"}, "data_dir=sets has no effect with an array or a Dataset; omit it"),
        ({"manual_dir": "sets"}, "manual_dir=sets has no effect with an array or a Dataset; omit it"),
    ],
    ids=str,
)
def test_fields_without_effect_raise(x, tmp_path, monkeypatch, fields, said):
    """Nothing is written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{said}"):
        jaxae.fit(vae, x, epochs=1, **{**SMALL, **fields})
    assert list(tmp_path.iterdir()) == []


def test_score_depends_on_the_example_alone(x):
    """The score does not depend on the index; the mean over samples is the expectation of the loss."""
    model = jaxae.fit(vae, x, epochs=1, **SMALL)
    assert np.ptp(model.score(np.repeat(x[:1], 50, axis=0))) < 1e-3
    np.testing.assert_allclose(model.score(x[::-1]), model.score(x)[::-1], rtol=1e-5)
    copies = model.terms(np.repeat(x[:1], 1000, axis=0))["loss"]  # one sample for each
    several = np.array([model.score(x[:1], samples=n)[0] for n in (100, 200)])
    error = copies.std(ddof=1) / np.sqrt(1000 * np.array([100, 200]) / (1000 + np.array([100, 200])))
    assert copies.std() > 0.1
    assert (np.abs(several - copies.mean()) < 4 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("written", [False, True])
def test_one_seed_of_several_is_saved_as_its_own_run(x, tmp_path, written):
    """Extended by epochs, it equals the run of this seed alone."""
    fields = {"figures": False, **SMALL}
    several = jaxae.fit(vae, x, epochs=1, seed=4, seeds=3, workdir=tmp_path / "all" if written else None, **fields)
    several[2].save(tmp_path / "one")
    assert equal(jaxae.load(tmp_path / "one").encode(x), several[2].encode(x))
    jaxae.load(tmp_path / "one").save(tmp_path / "again")
    with pytest.raises(InputError, match="one holds another model; delete it, or save into another folder"):
        several[0].save(tmp_path / "one")
    assert newest_digests(tmp_path / "again/checkpoints") == newest_digests(tmp_path / "one/checkpoints")
    longer = jaxae.fit(vae, x, epochs=3, seed=6, workdir=tmp_path / "one", **fields)
    alone = jaxae.fit(vae, x, epochs=3, seed=6, **fields)
    for a, b in zip(jax.tree.leaves(longer.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # the first epoch ran in a program of three seeds
    np.testing.assert_allclose(longer.history[-1]["loss"], alone.history[-1]["loss"], rtol=1e-5)


def test_model_with_another_state_is_saved(x, tmp_path):
    model = jaxae.fit(vae, x, epochs=1, **SMALL)
    best = model.state._replace(params=jax.tree.map(lambda leaf: 2 * leaf, model.state.params))
    dataclasses.replace(model, state=best).save(tmp_path / "best")
    assert equal(jaxae.load(tmp_path / "best").params, best.params)
    with pytest.raises(ValueError, match="no configuration"):
        jaxae.Trained(model.experiment, best, model.shape).save(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(InputError, match="is not empty"):
        model.save(tmp_path / "full")


def test_samples_need_a_key_and_a_number(x, untyped):
    model = jaxae.fit(vae, x, epochs=1, **SMALL)
    for arguments in ((0, 4), (jax.random.key(0), 0)):
        with pytest.raises(ValueError, match="a JAX key and a number"):
            model.sample(*arguments)
    plain = jaxae.fit(dense, x, test=0, epochs=1, **SMALL)
    with pytest.raises(ValueError, match="Autoencoder has no likelihood to sample from; omit noise"):
        plain.decode(plain.encode(x[:2]), noise=jax.random.split(new_key(), 2))


def test_booleans_are_0_and_255_and_ragged_lists_raise(x):
    found = jaxae.data.from_arrays(x > 127)
    assert np.array_equal(np.unique(found.train.x), [0, 255])
    with pytest.raises(InputError, match="x is a list of arrays of different shapes"):
        jaxae.data.from_arrays([np.zeros((8, 8)), np.zeros((8, 9))])


@pytest.mark.slow
def test_early_stopped_iterate_equals_fit_of_as_many_epochs(x):
    experiment = vae.build(vae.Config(hidden=(16,), batch_size=32), jaxae.data.from_arrays(x, test=0).info)
    data, best, seen = jaxae.data.from_arrays(x, test=0), np.inf, []
    for snapshot in jaxae.iterate(experiment, data, epochs=100, batch_size=32):
        if snapshot.test is None:
            continue
        seen.append(float(snapshot.test["loss"]))
        if len(seen) == 3:
            break
        best = min(best, seen[-1])
    model = jaxae.fit(vae, x, test=0, epochs=3, hidden=(16,), batch_size=32, progress=False)
    assert equal(jax.device_get(snapshot.state.params), model.params)


def test_optax_transformation_replaces_the_name_of_an_optimizer(x, tmp_path):
    """Resuming requires the same transformation, compared by its computation; loading does not."""
    fields = {"epochs": 2, "workdir": tmp_path / "run", "figures": False, **SMALL}
    named = jaxae.fit(dense, x, **{**fields, "workdir": None}, optimizer="adamw", lr=2e-3, weight_decay=1e-4)
    chosen = {"weight_decay": 1e-4, "mask": optimizers.kernels}
    model = jaxae.fit(dense, x, **fields, optimizer=optax.adamw(2e-3, **chosen))
    assert equal(model.params, named.params)
    assert equal(jaxae.fit(dense, x, **fields, optimizer=optax.adamw(2e-3, **chosen)).params, model.params)
    with pytest.raises(InputError, match="optimizer=optax"):
        jaxae.fit(dense, x, **fields, optimizer=optax.adamw(1e-3, weight_decay=1e-4))
    assert equal(jaxae.load(tmp_path / "run", optimizer=optax.adamw(2e-3, **chosen)).params, model.params)
    with pytest.raises(InputError, match="another optimizer"):
        jaxae.load(tmp_path / "run", optimizer=optax.sgd(2e-3))
    assert json.loads((tmp_path / "run/config.json").read_text())["command"] == ""


@pytest.mark.parametrize(
    "fields", [pytest.param({}, marks=pytest.mark.slow), {"ema": 0.5, "seeds": 2}], ids=["", "ema"]
)
def test_run_with_an_optax_transformation_is_loaded_without_it(x, tmp_path, fields):
    """Only the parameters of the run are loaded; the model can be neither trained nor saved again."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    fields = {**fields, "epochs": 1, "workdir": tmp_path / "run", "figures": False, **SMALL}
    model, loaded = jaxae.fit(vae, x, optimizer=optimizer, **fields), jaxae.load(tmp_path / "run")
    assert equal(loaded.variables, model.variables)
    assert not equal(model.params, model.state.params) or "ema" not in fields
    assert equal(loaded.encode(x), model.encode(x))
    assert equal(loaded.score(x[:5]), model.score(x[:5]))
    assert equal(loaded[0].evaluate(x[:5]), model[0].evaluate(x[:5]))
    with pytest.raises(ValueError, match=r"without its optimizer; pass it to jaxae.load\(path, optimizer=\.\.\.\)"):
        loaded.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="without its optimizer"):
        next(jaxae.iterate(loaded.experiment, jaxae.data.from_arrays(x), epochs=1, batch_size=50))
    assert not (tmp_path / "saved").exists()
    jaxae.load(tmp_path / "run", optimizer=optimizer).save(tmp_path / "saved")
    assert newest_digests(tmp_path / "saved/checkpoints") == newest_digests(tmp_path / "run/checkpoints")


@pytest.mark.slow
def test_iteration_that_stops_early_is_saved_as_a_copy_of_a_model(x, tmp_path):
    """The example of the docstring of `iterate`."""
    data = jaxae.data.from_arrays(x)
    model = jaxae.fit(dense, data, epochs=1, **SMALL)
    for snapshot in jaxae.iterate(model.experiment, data, epochs=50, batch_size=SMALL["batch_size"], seed=1):
        if snapshot.test and snapshot.epoch == 3:
            break
    found = dataclasses.replace(model, state=snapshot.state)
    np.testing.assert_allclose(found.evaluate(data.test.x)["loss"], snapshot.test["loss"], rtol=1e-5)
    found.save(tmp_path / "early")
    assert equal(jaxae.load(tmp_path / "early").encode(x), found.encode(x))
    assert not equal(found.params, model.params)


def test_training_in_threads_keeps_the_signal_handlers(x):
    found = []
    threads = [threading.Thread(target=lambda: found.append(jaxae.fit(dense, x, epochs=2, **SMALL))) for _ in range(2)]
    before = signal.getsignal(signal.SIGINT)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert equal(found[0].params, found[1].params)


@pytest.mark.parametrize("written", [False, True])
def test_fit_runs_within_an_event_loop(x, tmp_path, written):
    """A notebook runs its cells within an event loop."""
    fields = {"epochs": 1, "workdir": tmp_path / "run" if written else None, "figures": False, **SMALL}

    async def cell():
        return jaxae.fit(dense, x, **fields)

    model = asyncio.run(cell())
    assert model.encode(x).shape == (200, 2)
    assert equal(jaxae.fit(dense, x, **{**fields, "workdir": None}).params, model.params)


def test_fit_with_a_workdir_runs_in_a_thread(x, tmp_path):
    fields, found = {"epochs": 1, "figures": False, **SMALL}, []
    thread = threading.Thread(target=lambda: found.append(jaxae.fit(dense, x, workdir=tmp_path / "run", **fields)))
    thread.start()
    thread.join()
    assert equal(found[0].params, jaxae.fit(dense, x, **fields).params)


@pytest.fixture
def sigint():
    """Python's own handler of SIGINT, which a shell without job control disables in background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_interrupt_after_training_raises_and_the_same_call_completes_the_run(x, tmp_path):
    """While the metrics are measured, the caller's own SIGINT handler (for example asyncio's) is installed."""
    handlers, before = [], signal.getsignal(signal.SIGINT)

    def measure(model, data):
        handlers.append(signal.getsignal(signal.SIGINT))
        if len(handlers) == 1:
            signal.raise_signal(signal.SIGINT)
        return {"one": 1.0}

    experiment = dataclasses.replace(own(), measures={"own": measure})
    fields = {"epochs": 1, "batch_size": 50, "figures": False, "progress": False, "workdir": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        jaxae.fit(experiment, x, **fields)
    assert not (tmp_path / "run/result.json").exists()
    jaxae.fit(experiment, x, **fields)
    assert json.loads((tmp_path / "run/result.json").read_text())["own"] == {"one": 1.0}
    assert [*handlers, signal.getsignal(signal.SIGINT)] == [before] * 3


INTERRUPTED = """
import sys
import jaxae
x = jaxae.data.load("digits").train.x[:200]
model = jaxae.fit("dense", x, epochs=10**6, hidden=(16,), batch_size=32, workdir=sys.argv[1] or None, figures=False)
print("steps", int(model.state.step), len(model.history), model.encode(x).shape)
"""


@pytest.mark.parametrize("written", [pytest.param(False, marks=pytest.mark.slow), True])
def test_interrupted_fit_returns_the_trained_model(tmp_path, written):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "run") if written else ""]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not process.stdout.readline().startswith("epoch 2/"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "interrupted" in said
    steps, epochs = map(int, said.split("steps ")[1].split()[:2])
    assert steps >= 12
    assert epochs >= 4  # two lines per epoch
    if written:
        assert int(newest_digests(tmp_path / "run/checkpoints")["step"]) == steps


@pytest.fixture
def interrupted():
    """An experiment whose loss presses Ctrl-C, once, as `fit` compiles it: training stops after the first step."""
    before = signal.getsignal(signal.SIGINT)
    pressed = []

    def loss(variables, batch, key):
        if not pressed and signal.getsignal(signal.SIGINT) is not before:
            pressed.append(signal.raise_signal(signal.SIGINT))
        return squared(variables, batch, key)

    return own(loss)


FEW = {"epochs": 2, "batch_size": 50, "seeds": 2, "progress": False, "figures": False}


def test_model_interrupted_within_an_epoch_is_saved_and_resumed(x, tmp_path, interrupted):
    model = jaxae.fit(interrupted, x, **FEW)
    assert model.state.step.tolist() == [1, 1]
    assert not model.history
    model.save(tmp_path / "both")
    model[1].save(tmp_path / "one")
    both = jaxae.fit(interrupted, x, workdir=tmp_path / "both", **FEW)
    once = jaxae.fit(interrupted, x, **FEW)
    assert equal(both.state, once.state)
    assert both.history == once.history
    one = jaxae.fit(interrupted, x, workdir=tmp_path / "one", **{**FEW, "seed": 1, "seeds": 1})
    for line, expected in zip(one.history, once[1].history, strict=True):
        np.testing.assert_allclose(line["loss"], expected["loss"], rtol=1e-5)


def test_loaded_run_within_an_epoch_cannot_be_saved(x, tmp_path, interrupted):
    """Its sums over the epoch are in its directory only."""
    model = jaxae.fit(interrupted, x, workdir=tmp_path / "run", **FEW)
    assert model.state.step.tolist() == [1, 1]
    with pytest.raises(ValueError, match="stopped within an epoch; copy its directory"):
        model.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_import_loads_neither_jax_nor_slower_packages():
    code = "import jaxae, sys; print(sorted({'jax', 'flax', 'optax', 'orbax', 'matplotlib'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert {"fit", "load", "iterate", "data"} <= set(dir(jaxae))
