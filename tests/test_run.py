"""A whole run in this process, on the embedded data."""

import contextlib
import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import jaxae
import toy
from conftest import equal
from experiments import vae
from jaxae import data, directory, log, loop, parallel, results, run
from jaxae.checkpoint import Checkpoints
from jaxae.errors import Diverged, InputError, Interrupted
from jaxae.step import Transition, descend

NAME = "experiments.vae"
PICTURES = {
    "loss",
    "reconstructions",
    "extremes",
    "training",
    "activity",
    "latent",
    "interpolation",
    "traversal",
    "manifold",
    "samples",
}
INFO = data.Info((28, 28, 1), 1438)
SMALL = vae.Config(epochs=3, batch_size=128, hidden=(16,), workdir="set by go")


def go(workdir, build=vae.build, stop=loop.go_on, **changes):
    config = dataclasses.replace(SMALL, workdir=str(workdir), **changes)
    return run.train(config, build, NAME, stop)


def final(workdir, config=SMALL):
    """All that the last checkpoint holds, and its step."""
    abstract = loop.abstract(vae.build(config, INFO), config, (28, 28, 1))
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(abstract)[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return go(tmp_path_factory.mktemp("runs") / "finished")


def test_directory(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"] == NAME
    assert config["config"]["hidden"] == [16]
    assert config["versions"]["jax"] == jax.__version__
    assert config["device"]["count"] == 1
    assert config["data"]["train"] == 1438
    assert config["data"]["fingerprint"] == data.load("digits").fingerprint()
    lines = log.read(finished / "metrics.jsonl")
    assert [(line["epoch"], line["step"], line["split"]) for line in lines] == [
        (e, -(-e * 1438 // 128), split) for e in (1, 2, 3) for split in ("train", "test")
    ]
    assert lines[-1]["loss"] < lines[1]["loss"]
    for line in lines:
        assert line["loss"] == pytest.approx(line["reconstruction"] + line["kl"], rel=1e-5)
        assert line["bce"] == pytest.approx(line["reconstruction"] / 784, rel=1e-5)
    result = json.loads((finished / "result.json").read_text())
    assert result["metrics"]["loss"] == lines[-1]["loss"]
    assert result["reached"] is None
    assert result["images_per_second"] > 0
    assert result["peak_memory_bytes"] > 2**26
    for name in PICTURES:
        with Image.open(finished / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 10
    assert results.summary(finished).startswith("done: test bce ")


def test_tensorboard_has_every_metric_and_picture(finished):
    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    for split in ("train", "test"):
        expected = [
            (line["step"], line["kl"]) for line in log.read(finished / "metrics.jsonl") if line["split"] == split
        ]
        read = [(e.step, e.value) for e in events.Scalars(f"kl/{split}")]
        np.testing.assert_allclose(read, expected, rtol=1e-6)
    assert set(events.Tags()["images"]) == {*PICTURES, "while_training"}
    chosen = [line["step"] for line in log.read(finished / "metrics.jsonl")[1::2]]  # epochs 1, 2 and the last, 3
    assert [event.step for event in events.Images("while_training")] == chosen
    assert [path.stem for path in sorted((finished / "figures" / "training").iterdir())] == [f"{s:07d}" for s in chosen]
    codes = np.asarray(jaxae.load(finished).encode(data.load("digits").test.x), np.float64)
    last = events.Histograms("codes")[-1]
    assert (last.step, last.histogram_value.num) == (chosen[-1], codes.size)
    assert last.histogram_value.sum == pytest.approx(codes.sum(), rel=1e-4, abs=1e-3)
    assert last.histogram_value.min == pytest.approx(codes.min(), rel=1e-5)


def test_tensorboard_has_the_parameters_with_what_they_reach(finished):
    events = EventAccumulator(str(finished / "tensorboard" / "final"))
    events.Reload()
    found = {}
    for content in (events.SummaryMetadata("_hparams_/session_start_info").plugin_data,):
        start = HParamsPluginData.FromString(content.content).session_start_info
        found |= {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert (found["lr"], found["batch_size"], found["hidden"], found["data"]) == (1e-3, 128, "16", "digits")
    reached = {tag: events.Scalars(f"final/{tag}")[-1].value for tag in ("loss", "kl")}
    metrics = json.loads((finished / "result.json").read_text())["metrics"]
    assert reached == pytest.approx({tag: metrics[tag] for tag in reached}, rel=1e-6)


def test_a_finished_run_is_left_as_it_is(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert go(finished) == finished
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_same_seed_same_bits_and_another_seed_another_run(finished, tmp_path, blind):
    again, other = go(tmp_path / "again"), go(tmp_path / "other", seed=1)
    assert equal(final(again), final(finished))
    assert (again / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert not equal(final(other), final(finished))


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_stopped_is_as_good_as_finished(finished, tmp_path, calls, blind):
    """Stopped at some dispatch, within an epoch or at its end, again and again, and then continued."""
    workdir, stops = tmp_path / "stopped", 0
    while True:
        count = iter(range(1000))
        try:
            go(workdir, stop=lambda _: next(count) >= calls)  # noqa: B023
            break
        except Interrupted:
            stops += 1
    assert stops >= 1
    assert equal(final(workdir), final(finished))
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_a_torn_line_and_a_lost_checkpoint_are_made_good(finished, tmp_path, caplog, blind):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "report.html").unlink()
    newest = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    (next((newest / "state" / "d").iterdir())).write_bytes(b"")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    with caplog.at_level(logging.WARNING, "jaxae"):
        go(workdir)
    assert f"checkpoint {newest.name} is damaged" in caplog.text
    assert equal(final(workdir), final(finished))
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_seeds_are_an_axis(finished, tmp_path, blind):
    config = dataclasses.replace(SMALL, seeds=2)
    many = go(tmp_path / "many", seeds=2)
    states = final(many, config)["state"]
    one = final(finished)["state"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-5), states.params, one.params)
    line, alone = (log.read(path / "metrics.jsonl")[-1] for path in (many, finished))
    assert line["loss"][0] == pytest.approx(alone["loss"], rel=1e-5)
    assert line["loss"][0] != line["loss"][1]
    assert line["loss_mean"] == pytest.approx(np.mean(line["loss"]), rel=1e-6)
    assert line["loss_std"] == pytest.approx(np.std(line["loss"], ddof=1), rel=1e-5)
    for i in range(2):
        assert equal(jaxae.load(many, seed=i).params, jax.tree.map(lambda leaf: leaf[i], states.params))  # noqa: B023
    with pytest.raises(InputError, match="there is no seed 2"):
        jaxae.load(many, seed=2)


def test_load(finished):
    model = jaxae.load(finished)
    digits = data.load("digits").test.x
    z = model.encode(digits)
    assert z.shape == (359, 2)
    assert z.dtype == jnp.float32
    assert equal(
        z, jaxae.load(finished).encode(digits[..., 0] / np.float32(255))
    )  # deterministic; floats and [N, H, W] too
    x = model.decode(z)
    assert equal(x, model.reconstruct(digits))
    error = float(jnp.mean((x - digits / np.float32(255)) ** 2))
    assert error < 0.9 * np.var(digits / 255)
    samples = model.sample(jax.random.key(1), 7)
    assert samples.shape == (7, 28, 28, 1)
    assert 0 <= samples.min() < samples.max() <= 1
    assert equal(samples, model.decode(jax.random.normal(jax.random.key(1), (7, 2))))
    assert model.encode(digits[:0]).shape == (0, 2)


def test_load_says_what_is_wrong_with_what_it_is_given(finished, tmp_path):
    model = jaxae.load(finished)
    for call, given, says in (
        (model.encode, np.zeros((3, 27, 28)), "images have shape"),
        (model.encode, np.full((3, 28, 28), 2.0), "pixels must be"),
        (model.encode, np.full((3, 28, 28), np.nan), "pixels must be"),
        (model.decode, np.zeros((3, 3)), "codes have shape"),
    ):
        with pytest.raises(ValueError, match=says):
            call(given)
    plain = dataclasses.replace(model, experiment=dataclasses.replace(model.experiment, prior=None))
    with pytest.raises(InputError, match="VAE has no prior"):
        plain.sample(jax.random.key(0), 1)
    with pytest.raises(InputError, match="holds no run: there is no config.json"):
        jaxae.load(tmp_path)
    shutil.copy(finished / "config.json", tmp_path)
    with pytest.raises(InputError, match="no whole checkpoint"):
        jaxae.load(tmp_path)
    config = json.loads((finished / "config.json").read_text())
    for name in ("os", "experiments/../x", "my_script", "experiments.nope"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "experiment": name}))
        with pytest.raises(InputError, match="was trained by"):
            jaxae.load(tmp_path)
    for wrong in ({"config": 3}, {"data": {**config["data"], "shape": ["a"]}}, {"data": 1}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(InputError, match="describes no run"):
            jaxae.load(tmp_path)


def test_another_configuration_is_an_error_that_lists_the_fields(finished, tmp_path):
    before = final(finished)
    with pytest.raises(InputError, match=r"--epochs 3 there, 4 here; --hidden \[16\] there, \[8\] here"):
        go(finished, epochs=4, hidden=(8,))
    config = json.loads((finished / "config.json").read_text())
    shutil.copytree(finished, tmp_path / "copy")
    config["data"]["fingerprint"] = "0"
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the data itself is not the same"):
        go(tmp_path / "copy")
    assert equal(final(finished), before)


def test_overwrite_starts_again_and_removes_only_what_a_run_makes(finished, tmp_path, blind):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "notes.txt").write_text("mine")
    go(workdir, epochs=1, overwrite=True)
    assert len(log.read(workdir / "metrics.jsonl")) == 2
    assert (workdir / "notes.txt").read_text() == "mine"


def test_workdirs_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        go(tmp_path / "file" / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="not empty and holds no run"):
        go(tmp_path / "other")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "checkpoints").mkdir()
    for content in (b"{", b'{"a": 1}', b"[]", b"\xff\xfe"):
        (tmp_path / "damaged" / "config.json").write_bytes(content)
        for overwrite in (False, True):
            with pytest.raises(InputError, match="describes no run"):
                go(tmp_path / "damaged", overwrite=overwrite)
    assert (tmp_path / "damaged" / "checkpoints").exists()  # somebody else's


def test_a_run_killed_as_it_began_is_no_obstacle(tmp_path, blind):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.tmp").write_text("{")
    go(tmp_path / "run", epochs=1)


def test_changed_code_is_not_taken_for_a_damaged_checkpoint(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "report.html").unlink()

    def build(config, info):
        experiment = vae.build(config, info)
        return dataclasses.replace(experiment, transition=descend(experiment.evaluate, optax.adam(1e-3)))

    with pytest.raises(InputError, match="was written by other code"):
        go(workdir, build)
    assert equal(final(workdir), final(finished))


def test_metrics_cut_short_by_hand(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "report.html").unlink()
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="is shorter than when its run was saved"):
        go(workdir)


def test_no_git_no_commit(monkeypatch):
    commit = directory._commit()
    assert commit is None or len(commit) == 40
    monkeypatch.setenv("PATH", "/nonexistent")
    assert directory._commit() is None


def test_batch_norm_codebook_and_two_optimizers_go_on_exactly(tmp_path, blind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = toy.Config(epochs=2, batch_size=128)
    run.train(dataclasses.replace(config, workdir=str(whole)), toy.build, "toy")
    while not (parts / "result.json").exists():
        count = iter(range(1000))
        with contextlib.suppress(Interrupted):
            run.train(dataclasses.replace(config, workdir=str(parts)), toy.build, "toy", lambda _: next(count) >= 3)  # noqa: B023
    models = [jaxae.load(path, toy) for path in (whole, parts)]
    assert equal(models[0].params, models[1].params)
    assert equal(models[0].extra, models[1].extra)
    assert set(models[0].extra) == {"batch_stats", "codebook"}
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()


def test_a_transition_must_report_its_loss(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def step(state, batch, key):
            state, metrics = experiment.transition.step(state, batch, key)
            return state, {"cost": metrics["loss"]}

        return dataclasses.replace(experiment, transition=Transition(experiment.transition.init, step))

    with pytest.raises(ValueError, match=r"no metric of training is named loss: there are \['cost'\]"):
        go(tmp_path / "run", build)


def test_divergence_in_evaluation(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def evaluate(params, extra, batch, key):
            value, (extra, metrics) = experiment.evaluate(params, extra, batch, key)
            return value, (extra, {**metrics, "kl": metrics["kl"] + jnp.inf})

        return dataclasses.replace(experiment, evaluate=evaluate)

    with pytest.raises(Diverged, match="test kl is not finite at step 12"):
        go(tmp_path / "run", build)
    assert [line["split"] for line in log.read(tmp_path / "run" / "metrics.jsonl")] == ["train"]


def test_fewer_examples_than_a_batch(tmp_path):
    with pytest.raises(InputError, match="only 1438 training examples"):
        go(tmp_path / "run", batch_size=1439)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hidden": (10**8, 10**8)}, "parameters and optimizer take .* GiB, and there are .*: take fewer --seeds"),
        ({"seeds": 10**8}, "parameters and optimizer take .* GiB, and there are .*: take fewer --seeds"),
        ({"epochs": 10**9}, "--epochs 1000000000: more than 2147483648 steps"),
    ],
)
def test_more_than_any_machine_can_do_is_refused_at_once(tmp_path, fields, says):
    with pytest.raises(InputError, match=says):
        go(tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("says", ["RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes", "INTERNAL: a defect"])
def test_out_of_memory_is_one_line(tmp_path, monkeypatch, capsys, says):
    def fit(*args):
        raise jax.errors.JaxRuntimeError(says)

    monkeypatch.setattr(loop, "fit", fit)
    arguments = ["--epochs", "1", "--workdir", str(tmp_path / "run")]
    with pytest.raises((SystemExit, jax.errors.JaxRuntimeError)) as ended:
        run.main(vae.Config, vae.build, arguments)
    if says.startswith("RESOURCE"):
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: out of memory: take a smaller --batch-size")
    else:
        assert str(ended.value) == says


def test_divergence_stops_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def step(state, batch, key):
            state, metrics = experiment.transition.step(state, batch, key)
            return state, {**metrics, "kl": jnp.where(state.step == 20, jnp.nan, metrics["kl"])}

        return dataclasses.replace(experiment, transition=Transition(experiment.transition.init, step))

    with pytest.raises(Diverged, match=r"kl is not finite at step 20 \(seed 0\)"):
        go(tmp_path / "run", build)
    state = final(tmp_path / "run")["state"]
    assert state.step == 12  # the end of the first epoch
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert len(log.read(tmp_path / "run" / "metrics.jsonl")) == 2


def test_infinite_parameters_are_a_divergence_too(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def step(state, batch, key):
            new, metrics = experiment.transition.step(state, batch, key)
            broken = optax.tree.scale(jnp.where(state.step == 20, jnp.inf, 1.0), new.params)
            return new._replace(params=broken), metrics

        return dataclasses.replace(experiment, transition=Transition(experiment.transition.init, step))

    with pytest.raises(Diverged, match="is not finite at step 2[0-9]"):
        go(tmp_path / "run", build)


def test_stopped_between_checkpoints(finished, tmp_path, blind):
    """However the answer of `stop` changes while it is asked, what was said to be saved is."""
    for calls in range(8):
        workdir, count = tmp_path / str(calls), iter(range(1000))
        with pytest.raises(Interrupted):
            go(workdir, checkpoint_every=3, stop=lambda _: next(count) >= calls)  # noqa: B023
        assert any(path.name.isdigit() for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("every", "unit", "steps"),
    [(2, "epochs", [23, 34]), (5, "steps", [30, 34]), (12, "steps", [24, 34]), (17, "steps", [17, 34])],
)
def test_checkpoint_every(tmp_path, blind, every, unit, steps):
    """The two newest: the last one, and the one before at the end of an epoch or after any number of steps."""
    go(tmp_path / "run", checkpoint_every=every, checkpoint_unit=unit)
    kept = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == steps


def test_a_crash_within_an_epoch_goes_back_to_the_checkpoint_within_it(finished, tmp_path, blind):
    """Nothing is saved as it ends; every time it comes a little further."""

    class Crash(Exception):
        pass

    workdir, crashes, reached = tmp_path / "run", 0, []
    while True:
        count = iter(range(1000))

        def crash(save):
            if next(count) == 2:  # noqa: B023
                raise Crash
            return False

        try:
            go(workdir, checkpoint_every=1, checkpoint_unit="steps", stop=crash)
            break
        except Crash:
            crashes += 1
            reached.append(max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()))
    assert crashes > 3
    assert reached == sorted(set(reached))
    assert {step for step in reached if step not in (12, 23, 34)}
    assert equal(final(workdir), final(finished))
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_when_all_is_said_to_be_saved_it_is(tmp_path, blind):
    seen = []

    def stop(save):
        if save is None:
            seen.append([path.name for path in (tmp_path / "run" / "checkpoints").iterdir()])
        return False

    go(tmp_path / "run", stop=stop, checkpoint_every=3)
    assert seen == [["34"]]


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "checkpoints/12", "result.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_links_out_of_the_directory_are_refused(finished, tmp_path, name, overwrite):
    workdir, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(finished, workdir)
    (workdir / "report.html").unlink()
    outside.mkdir()
    (outside / "mine").write_text("mine")
    target = workdir / name
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    target.symlink_to(outside if "checkpoints" in name else outside / "mine")
    with pytest.raises(InputError, match="is a link"):
        go(workdir, overwrite=overwrite)
    assert (outside / "mine").read_text() == "mine"
    assert len(list(outside.iterdir())) == 1


def test_colour_images_of_another_size_and_a_wide_code(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 6, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    workdir = go(tmp_path / "run", data=str(tmp_path / "x.npy"), batch_size=16, latent=5, precision="mixed")
    model = jaxae.load(workdir)
    assert model.encode(x).shape == (60, 5)
    assert model.reconstruct(x).shape == (60, 6, 9, 3)
    assert {p.stem for p in (workdir / "figures").glob("*.png")} == {*PICTURES} - {"manifold", "extremes"}


def test_expected_figures_are_compared(finished):
    line = log.read(finished / "metrics.jsonl")[-1]
    outcome = loop.Outcome(None, 1.0, 1.0)
    loss = line["loss"]
    for bound, reached in (
        (loss + 1, True),
        (loss - 1, False),
        ((loss - 1, loss + 1), True),
        ((loss + 1, 999.0), False),
    ):
        assert results.collect(line, {"loss": bound}, outcome)["reached"] is reached
    assert results.collect(line, {}, outcome)["reached"] is None


def test_batch_sizes_that_do_not_divide():
    devices = jax.devices() * 4
    with pytest.raises(InputError, match="--batch-size 10 does not divide over 4 devices: use 8 or 12"):
        parallel.plan("auto", 10, 1, devices)
    assert parallel.plan("auto", 8, 1, devices).mode == "pmap"
    assert parallel.plan("jit", 8, 1, devices).mode == "jit"
    assert parallel.plan("auto", 10, 8, devices).mode == "seeds"
    assert parallel.plan("auto", 10, 1, devices[:1]).mode == "one"
