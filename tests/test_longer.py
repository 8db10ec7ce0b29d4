"""Extension, warm start and replay of runs."""

import dataclasses
import importlib
import json
import re
import shutil
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxae
from conftest import equal
from jaxae import run
from jaxae.core.divergences import per_example
from jaxae.errors import Diverged, InputError, Interrupted
from jaxae.experiments import dense, iwae, stacked, vae, vqvae
from jaxae.training.checkpoint import newest_digests

FIELDS = {"batch_size": 32, "figures": False, "progress": False}


@pytest.fixture(scope="module")
def x():
    return jaxae.data.load("digits").train.x[:200]


@pytest.mark.parametrize(
    ("module", "fields"),
    [
        (vae, {"hidden": (8,), "kl_warmup": 3.0, "warmup_steps": 4, "ema": 0.5}),
        pytest.param(dense, {"hidden": (8,), "seeds": 2, "checkpoint_every": 2}, marks=pytest.mark.slow),
        pytest.param(stacked, {"hidden": (8,), "latent": 4, "greedy": 1}, marks=pytest.mark.slow),
        pytest.param(iwae, {"hidden": (8,), "samples": 2}, marks=pytest.mark.slow),
    ],
    ids=["vae", "dense", "stacked", "iwae"],
)
def test_run_extended_by_epochs_is_bit_exact(x, tmp_path, module, fields):
    fields = {**FIELDS, **fields}
    jaxae.fit(module, x, epochs=3, workdir=tmp_path / "extended", **fields)
    extended = jaxae.fit(module, x, epochs=5, workdir=tmp_path / "extended", **fields)
    once = jaxae.fit(module, x, epochs=5, workdir=tmp_path / "once", **fields)
    assert equal(extended.state, once.state)
    a, b = tmp_path / "extended", tmp_path / "once"
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    assert newest_digests(a / "checkpoints") == newest_digests(b / "checkpoints")
    with pytest.raises(InputError, match="epochs=5 there, 4 here"):
        jaxae.fit(module, x, epochs=4, workdir=a, **fields)


@pytest.mark.parametrize(
    "schedule", ["cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "exponential"))]
)
def test_run_with_a_decaying_schedule_cannot_be_extended(x, tmp_path, schedule):
    fields = {**FIELDS, "hidden": (8,), "schedule": schedule, "workdir": tmp_path}
    jaxae.fit(dense, x, epochs=2, **fields)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="schedule depends on the number of epochs"):
        jaxae.fit(dense, x, epochs=3, **fields)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def until_trained(save):
    """A `stop` that interrupts a run after training, before the figures of the trained model."""
    if save is None:
        raise Interrupted
    return False


@pytest.mark.slow
def test_pictures_of_an_extended_run_are_those_of_a_run_of_that_length(x, tmp_path):
    """The picture after epoch 3 was due as the last one only; other figures are drawn again."""
    np.save(tmp_path / "x.npy", x)
    config = dense.Config(data=str(tmp_path / "x.npy"), hidden=(8,), batch_size=32)

    def train(folder, epochs):
        changed = dataclasses.replace(config, epochs=epochs, workdir=str(tmp_path / folder))
        with pytest.raises(Interrupted):
            run.train(changed, dense.build, "dense", until_trained, progress=False)

    train("extended", 3)
    (tmp_path / "extended/figures/latent.png").touch()  # of a model whose codes have not collapsed
    train("extended", 4)
    train("once", 4)
    extended, once = (
        {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*.png")}
        for folder in ("extended", "once")
    )
    assert extended == once
    assert len(once) == 3  # after epochs 1, 2 and 4


@pytest.mark.slow
def test_figures_of_an_extended_run_equal_those_of_a_run_of_that_length(x, tmp_path):
    fields = {"hidden": (8,), "batch_size": 32, "progress": False}
    extended, once = tmp_path / "extended", tmp_path / "once"
    jaxae.fit(dense, x, epochs=3, workdir=extended, **fields)
    assert ", 3 epochs," in (extended / "report.html").read_text()
    jaxae.fit(dense, x, epochs=4, workdir=extended, **fields)
    jaxae.fit(dense, x, epochs=4, workdir=once, **fields)
    assert ", 4 epochs," in (extended / "report.html").read_text()
    a, b = ({path.relative_to(run): path.read_bytes() for path in run.rglob("*.png")} for run in (extended, once))
    assert a == b


@pytest.mark.parametrize(
    ("module", "seeds"),
    [
        (vae, 3),
        *(pytest.param(module, n, marks=pytest.mark.slow) for module, n in ((vae, 1), (vqvae, 1), (vqvae, 3))),
    ],
)
def test_training_starts_from_the_parameters_of_another_run(x, tmp_path, module, seeds):
    """The codebook is copied too; the optimizer may differ. A learning rate of 0 changes nothing."""
    fields = {**FIELDS, "epochs": 1}
    fields |= {"hidden": (8,)} if module is vae else {"filters": (4,), "codes": 8, "latent": 2}
    source = jaxae.fit(module, x, workdir=tmp_path / "source", seeds=seeds, **fields)
    still = {"optimizer": "sgd", "lr": 0.0, **({} if module is vae else {"codebook": "gradient", "reinit_below": 0.0})}
    if module is vqvae:
        moved = jaxae.fit(module, x, init_from=str(tmp_path / "source"), seeds=3, **fields)
        before = source.history[0]["loss"]
        assert moved.history[0]["loss"]["mean"] < (before["mean"] if seeds > 1 else before)
        with pytest.raises(InputError, match="params/codebook is missing there"):
            jaxae.fit(module, x, init_from=str(tmp_path / "source"), seeds=seeds, **{**fields, **still})
        return
    same = jaxae.fit(module, x, init_from=str(tmp_path / "source"), seeds=3, **{**fields, **still})
    for i in range(3):
        assert equal(same[i].params, source[i if seeds > 1 else 0].params)


@pytest.mark.slow
@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_warm_start_needs_only_the_parameters_of_its_source(x, tmp_path, monkeypatch, ema):
    """It needs neither optimizer nor experiment, which may be outside the package; averages count as parameters."""
    (tmp_path / "my_dense.py").write_text("from jaxae.experiments.dense import Config, build\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("my_dense")
    fields, start = {**FIELDS, "epochs": 1, "hidden": (8,)}, tmp_path / "source"
    source = jaxae.fit(module, x, workdir=start, optimizer=optax.adam(1e-2), ema=ema, **fields)
    built = dense.build(dense.Config(hidden=(8,)), jaxae.Info((28, 28, 1), 180))
    still = dataclasses.replace(built, train=jaxae.descend(built.evaluate, optax.sgd(0.0)))
    plain = {name: value for name, value in fields.items() if name != "hidden"}
    for model in (
        jaxae.fit(module, x, init_from=start, optimizer="sgd", lr=0.0, **fields),
        jaxae.fit(still, x, init_from=start, **plain),
    ):
        assert equal(model.params, source.params)
    jaxae.fit(still, x, workdir=tmp_path / "own", init_from=start, **plain)
    model = jaxae.fit(still, x, init_from=tmp_path / "own", seeds=2, **plain)
    assert equal(model[1].params, source.params)
    del sys.modules["my_dense"]


@pytest.mark.slow
def test_warm_start_of_another_network_raises(x, tmp_path):
    jaxae.fit(vae, x, workdir=tmp_path / "source", epochs=1, hidden=(8,), seeds=2, **FIELDS)
    with pytest.raises(
        InputError, match=r"params/decoder/Dense_0/bias is float32\[2, 8\] there, float32\[2, 16\] here"
    ):
        jaxae.fit(vae, x, init_from=str(tmp_path / "source"), epochs=1, hidden=(16,), seeds=2, **FIELDS)
    with pytest.raises(InputError, match="has 2 seeds, not 1 or seeds=3"):
        jaxae.fit(vae, x, init_from=str(tmp_path / "source"), epochs=1, hidden=(8,), seeds=3, **FIELDS)
    with pytest.raises(InputError, match="holds no run"):
        jaxae.fit(vae, x, init_from=str(tmp_path), epochs=1, hidden=(8,), **FIELDS)


@pytest.mark.slow
def test_warm_start_records_its_source_and_a_failed_one_writes_nothing(x, tmp_path):
    """config.json has a hash of the checkpoint; the run resumes even if its source is deleted."""
    fields = {**FIELDS, "epochs": 1, "hidden": (8,)}
    for seed in (0, 1):
        jaxae.fit(vae, x, workdir=tmp_path / f"source{seed}", seed=seed, **fields)
    found = []
    for number, source in enumerate((0, 0, 1)):
        workdir, start = tmp_path / f"warm{number}", str(tmp_path / f"source{source}")
        with pytest.raises(InputError, match="has different parameters"):
            jaxae.fit(vae, x, init_from=start, workdir=workdir, **{**fields, "hidden": (16,)})
        model = jaxae.fit(vae, x, init_from=start, workdir=workdir, **fields)
        found.append(json.loads((workdir / "config.json").read_text())["init_from"])
    assert found[0] == found[1] != found[2]
    model.save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "source1")
    jaxae.fit(vae, x, init_from=start, workdir=workdir, **{**fields, "epochs": 2})
    for path in (workdir, tmp_path / "saved"):
        assert json.loads((path / "config.json").read_text())["init_from"] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_replay_repeats_the_step_at_which_a_run_diverged(x, tmp_path, seeds):
    """From the state before the step, with its rows and its key; it names the first layer whose output overflows."""
    fields = {**FIELDS, "hidden": (8,), "optimizer": "sgd", "lr": 1e25, "seeds": seeds}
    with pytest.raises(Diverged) as error:
        jaxae.fit(vae, x, epochs=3, workdir=tmp_path, **fields)
    found = jaxae.replay(tmp_path)
    assert f"at step {found.step} (seed {found.seed})" in str(error.value)
    assert found.batch.x.shape == (32, 28, 28, 1)
    assert re.match("the (in|out)put of VAE", found.nonfinite[0])
    assert any(name.startswith("term ") for name in found.nonfinite)
    assert str(found).startswith(f"step {found.step} (seed {found.seed}): {found.nonfinite[0]} is the first")
    # The same step in plain JAX, from the saved state.
    experiment = vae.build(
        vae.Config(hidden=(8,), optimizer="sgd", lr=1e25, batch_size=32), jaxae.Info((28, 28, 1), 180)
    )
    _, metrics = experiment.train.step(found.state, found.batch, found.key)
    assert not np.isfinite(metrics["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.state))


class Scales(nn.Module):
    """The data times a parameter."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, x.shape[1:])[None]

    def encode(self, x):
        return x.reshape(len(x), -1)[:, :2]

    def decode(self, z):
        return jnp.zeros((len(z), 28, 28, 1)) + z.mean()


def error(variables, batch):
    return per_example((Scales().apply(variables, batch.x) - batch.x) ** 2)


def distance(variables, batch, key):
    """The norm of the error, whose gradient at 0 is not finite."""
    return {"loss": jnp.sqrt(error(variables, batch))}, {}


def logarithm(variables, batch, key):
    """A sum with a term that is infinite at 0."""
    squared = error(variables, batch)
    return {"loss": squared + jnp.log(squared), "error": squared, "log": jnp.log(squared)}, {}


def steep(variables, batch, key):
    """A loss whose gradient times the learning rate overflows."""
    return {"loss": 1e3 * per_example(Scales().apply(variables, batch.x))}, {}


@pytest.mark.parametrize(
    ("loss", "lr", "first", "said"),
    [
        (distance, 1.0, "gradient of scale", "gradient of scale"),
        (logarithm, 1.0, "term log", "log"),
        (steep, 3e38, "params/scale", "params/scale"),
    ],
)
def test_replay_of_an_experiment_without_a_config_names_the_first_value(x, tmp_path, loss, lr, first, said):
    """The value that the error names."""
    experiment = jaxae.Experiment(Scales(), jaxae.descend(loss, optax.sgd(lr)), loss)
    with pytest.raises(Diverged, match=rf"^{said} is not finite at step 0 \(seed 0\)$"):
        jaxae.fit(experiment, x, epochs=1, workdir=tmp_path, **FIELDS)
    found = jaxae.replay(tmp_path, experiment)
    assert str(found) == f"step 0 (seed 0): {first} is the first non-finite value"
    assert equal(found.state.params, {"scale": np.ones((28, 28, 1), np.float32)})


@pytest.mark.slow
def test_replay_of_a_run_with_an_optax_transformation_requires_it(x, tmp_path):
    fields = {**FIELDS, "hidden": (8,), "optimizer": optax.sgd(1e25), "workdir": tmp_path / "diverged"}
    with pytest.raises(Diverged):
        jaxae.fit(vae, x, epochs=1, **fields)
    with pytest.raises(InputError, match=r"Optax transformation; pass the same one to jaxae.replay\(path, optimizer="):
        jaxae.replay(tmp_path / "diverged")
    assert jaxae.replay(tmp_path / "diverged", optimizer=optax.sgd(1e25)).nonfinite
    for fields in ({}, {"optimizer": optax.sgd(1e25)}):
        with pytest.raises(InputError, match="it diverged: see jaxae.replay"):
            jaxae.load(tmp_path / "diverged", **fields)


def test_replay_of_a_run_that_did_not_diverge_raises(x, tmp_path):
    jaxae.fit(vae, x, workdir=tmp_path, epochs=1, hidden=(8,), **FIELDS)
    with pytest.raises(InputError, match="did not diverge"):
        jaxae.replay(tmp_path)
