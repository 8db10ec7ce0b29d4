"""Complete runs in this process, on embedded data."""

import contextlib
import dataclasses
import json
import logging
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import jaxae
import short_runs
import toy
from conftest import call, equal
from jaxae import data, run
from jaxae.core.step import Transition, descend
from jaxae.core.types import Info
from jaxae.devices.plan import plan
from jaxae.errors import Diverged, InputError, Interrupted
from jaxae.experiments import vae
from jaxae.report import html
from jaxae.run import directory, loop, results
from jaxae.training import records
from jaxae.training.checkpoint import Checkpoints

NAME = "vae"
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
INFO = Info((28, 28, 1), 1438)
SMALL = vae.Config(epochs=3, batch_size=128, hidden=(16,), workdir="set by go")


def go(workdir, build=vae.build, stop=loop.never, **changes):
    """Train a run, by default without figures."""
    config = dataclasses.replace(SMALL, workdir=str(workdir), **{"figures": "none", **changes})
    return run.train(config, build, NAME, stop)


def unfinished(finished, workdir):
    """A copy of a finished run without the files that are written after training."""
    shutil.copytree(finished, workdir)
    (workdir / "report.html").unlink()
    (workdir / "result.json").unlink()
    return workdir


def final(workdir, config=SMALL):
    """All items of the last checkpoint, and its step."""
    abstract = loop.abstract(vae.build(config, INFO), config, INFO)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.restore(abstract)[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return go(tmp_path_factory.mktemp("runs") / "finished", figures="all")


def test_run_directory_holds_config_metrics_result_and_pictures(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"] == NAME
    assert config["config"]["hidden"] == [16]
    assert config["versions"]["jax"] == jax.__version__
    assert config["device"]["count"] == 1
    assert config["data"]["train"] == 1438
    assert config["data"]["fingerprint"] == data.load("digits").fingerprint()
    lines = records.read(finished / "metrics.jsonl")
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
            (line["step"], line["kl"]) for line in records.read(finished / "metrics.jsonl") if line["split"] == split
        ]
        read = [(e.step, e.value) for e in events.Scalars(f"kl/{split}")]
        np.testing.assert_allclose(read, expected, rtol=1e-6)
    assert set(events.Tags()["images"]) == {*PICTURES, "while_training"}
    chosen = [line["step"] for line in records.read(finished / "metrics.jsonl")[1::2]]  # epochs 1, 2 and the last, 3
    assert [event.step for event in events.Images("while_training")] == chosen
    assert [path.stem for path in sorted((finished / "figures" / "training").iterdir())] == [f"{s:07d}" for s in chosen]
    codes = np.asarray(jaxae.load(finished).encode(data.load("digits").test.x), np.float64)
    last = events.Histograms("codes")[-1]
    assert (last.step, last.histogram_value.num) == (chosen[-1], codes.size)
    assert last.histogram_value.sum == pytest.approx(codes.sum(), rel=1e-4, abs=1e-3)
    assert last.histogram_value.min == pytest.approx(codes.min(), rel=1e-5)


def test_tensorboard_has_hyperparameters_with_final_metrics(finished):
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


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A file of 80 digits."""
    return short_runs.few(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
def test_run_without_figures_is_completed_with_figures_and_not_trained_again(few, tmp_path):
    plain = tmp_path / "plain"
    fields = {"data": str(few), "batch_size": 16, "picture_every": 2}
    go(plain, **fields)
    assert {path.name for path in plain.iterdir()} == {
        ".lock", "config.json", "metrics.jsonl", "checkpoints", "tensorboard", "result.json"
    }  # fmt: skip
    events = EventAccumulator(str(plain / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == []
    assert "loss/test" in events.Tags()["scalars"]
    assert not {"pictures:", "report:"} & set(results.summary(plain).split())
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*")}
    go(plain, **fields)
    assert before == {path: path.stat().st_mtime_ns for path in plain.rglob("*")}  # the run is finished

    state, metrics = final(plain), (plain / "metrics.jsonl").read_bytes()
    result = json.loads((plain / "result.json").read_text())
    assert call("report", plain) == 0
    assert "pictures:" not in results.summary(plain)
    go(plain, figures="all", **fields)
    assert equal(final(plain), state)
    assert (plain / "metrics.jsonl").read_bytes() == metrics
    pictures = {path.stem for path in (plain / "figures").glob("*.png")}
    assert pictures == PICTURES - {
        "training",
        "extremes",
    }  # without reconstructions during training, and with few test examples
    assert "<html" in (plain / "report.html").read_text()
    assert {"pictures:", "report:"} <= set(results.summary(plain).split())
    completed = json.loads((plain / "result.json").read_text())
    assert completed["metrics"] == result["metrics"]
    assert completed["reconstruction_quality"] == result["reconstruction_quality"]


def with_terms(names):
    """A `build` whose loss has these additional terms: the squared KL term, in training and evaluation."""

    def build(config, info):
        experiment = vae.build(config, info)

        def loss(variables, batch, key):
            terms, updates = experiment.evaluate(variables, batch, key)
            return {**terms, **dict.fromkeys(names, terms["kl"] ** 2)}, updates

        return dataclasses.replace(experiment, train=descend(loss, optax.adam(config.lr)), evaluate=loss)

    return build


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 3])
def test_metric_names_that_end_in_mean_and_std_are_kept_in_all_files(few, tmp_path, seeds):
    names = ("kl_mean", "kl_std", "mean", "std", "seeds")
    workdir = go(
        tmp_path / "run", with_terms(names), epochs=2, data=str(few), batch_size=16, seeds=seeds, figures="all"
    )
    lines = records.read(workdir / "metrics.jsonl")
    result = json.loads((workdir / "result.json").read_text())["metrics"]
    assert (
        {*names, "loss", "reconstruction", "kl", "bce", "mse"} == {*records.names(lines[0])} == {*records.names(result)}
    )
    for line in lines:
        assert len(records.each(line["kl_std"])) == seeds
        assert line["kl_mean"] == line["kl_std"] == line["mean"] == line["std"] == line["seeds"]
        assert (records.std(line["kl_std"]) is None) == (seeds == 1)
    assert all(result[name] == lines[-1][name] for name in names)

    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    for name in names:
        for split, rows in (("train", lines[::2]), ("test", lines[1::2])):
            found = [(e.step, e.value) for e in events.Scalars(f"{name}/{split}")]
            np.testing.assert_allclose(found, [(line["step"], records.mean(line[name])) for line in rows], rtol=1e-6)
            tag = f"{name}/{split}/std"
            assert (tag in events.Tags()["scalars"]) == (seeds > 1)
            if seeds > 1:
                found = [e.value for e in events.Scalars(tag)]
                np.testing.assert_allclose(found, [records.std(line[name]) for line in rows], rtol=1e-6)

    page = (workdir / "report.html").read_text()
    charts = {chart["title"]: chart["series"] for chart in html.charts({"": (lines, "nats")}, "images")}
    assert set(names) < set(charts)
    for name in names:
        assert f"test {name}<" in page
        assert html.figure(result[name]) in page
        for curve, rows in zip(charts[name], (lines[::2], lines[1::2]), strict=True):
            assert curve["mean"] == [records.mean(line[name]) for line in rows]
            assert curve["std"] == ([records.std(line[name]) for line in rows] if seeds > 1 else None)


@pytest.mark.parametrize("name", ["epoch", "step", "split"])
def test_metric_named_like_a_field_of_metrics_jsonl_raises(few, tmp_path, name):
    with pytest.raises(ValueError, match=f"a metric is named {name}"):
        records.record(1, 2, "test", {"loss": np.float32(1), name: np.float32(2)})
    with pytest.raises(InputError, match=f"a metric is named {name}"):
        go(tmp_path / "run", with_terms([name]), data=str(few), batch_size=16)
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True)
class Documented(vae.Config):
    """A documented configuration, small enough for a test."""

    epochs: int = 1
    batch_size: int = 16
    hidden: tuple[int, ...] = (4,)


@pytest.mark.slow
def test_expected_results_are_those_of_the_data(few, tmp_path):
    """Only the documented configuration has expected results."""

    def build(config, info):
        other = {"loss": -1.0}  # cannot be reached
        mine = {"loss": 1e6, "kl": (0.0, 1e6)}
        expected = {str(few): mine, "digits": other, "mnist": other}
        return dataclasses.replace(vae.build(config, info), expected=expected)

    copy = tmp_path / "copy.npz"
    shutil.copy(few, copy)  # the same data under another name
    for number, (fields, expected) in enumerate(
        (
            ({"data": str(few), "seed": 3}, {"loss": 1e6, "kl": [0.0, 1e6]}),
            ({"data": str(copy)}, {}),
            ({"data": str(few), "lr": 1e-2}, {}),
        )
    ):
        config = Documented(**fields, figures="none", workdir=str(tmp_path / str(number)))
        workdir = run.train(config, build, NAME)
        result = json.loads((workdir / "result.json").read_text())
        assert result["expected"] == expected
        assert result["reached"] is (True if expected else None)
        assert ("(expected result reached)" in results.summary(workdir)) == bool(expected)


def test_repeating_a_finished_run_changes_no_file(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert go(finished, figures="all") == finished
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bits_and_another_seed_other_metrics(finished, tmp_path):
    again, other = go(tmp_path / "again"), go(tmp_path / "other", seed=1)
    assert equal(final(again), final(finished))
    assert (again / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert not equal(final(other), final(finished))


@pytest.mark.parametrize("calls", [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3)), 5])
def test_stopped_and_resumed_run_is_bit_exact(finished, tmp_path, calls):
    """The run is stopped repeatedly, each time after this many dispatches."""
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


def test_truncated_line_and_damaged_checkpoint_are_repaired_on_resume(finished, tmp_path, caplog):
    workdir = unfinished(finished, tmp_path / "copy")
    newest = max((workdir / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    (next((newest / "state" / "d").iterdir())).write_bytes(b"")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    with caplog.at_level(logging.WARNING, "jaxae"):
        go(workdir)
    assert f"checkpoint {newest.name} is damaged" in caplog.text
    assert equal(final(workdir), final(finished))
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_each_of_several_seeds_equals_its_single_run(finished, tmp_path):
    config = dataclasses.replace(SMALL, seeds=2)
    many = go(tmp_path / "many", seeds=2)
    states = final(many, config)["state"]
    one = final(finished)["state"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-3, atol=1e-5), states.params, one.params)
    line, alone = (records.read(path / "metrics.jsonl")[-1] for path in (many, finished))
    first, second = line["loss"]["seeds"]
    assert first == pytest.approx(alone["loss"], rel=1e-5)
    assert first != second
    assert line["loss"]["mean"] == pytest.approx((first + second) / 2, rel=1e-6)
    assert line["loss"]["std"] == pytest.approx(
        abs(first - second) / 2**0.5, rel=1e-5
    )  # sample standard deviation, n - 1
    for i in range(2):
        assert equal(jaxae.load(many)[i].params, jax.tree.map(lambda leaf: leaf[i], states.params))  # noqa: B023
    with pytest.raises(IndexError):
        jaxae.load(many)[2]


def test_loaded_model_encodes_decodes_and_samples(finished):
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


def test_load_and_model_reject_bad_input(finished, tmp_path):
    model = jaxae.load(finished)
    for method, given, says in (
        (model.encode, np.zeros((3, 27, 28)), "examples have shape"),
        (model.encode, np.full((3, 28, 28), 2.0), "pixels must be"),
        (model.encode, np.full((3, 28, 28), np.inf), "examples have infinite values"),
        (model.decode, np.zeros((3, 3)), "codes have shape"),
    ):
        with pytest.raises(ValueError, match=says):
            method(given)
    plain = dataclasses.replace(model, experiment=dataclasses.replace(model.experiment, prior=None))
    with pytest.raises(ValueError, match="VAE has no prior"):
        plain.sample(jax.random.key(0), 1)
    with pytest.raises(InputError, match="holds no run: there is no config.json"):
        jaxae.load(tmp_path)
    shutil.copy(finished / "config.json", tmp_path)
    with pytest.raises(InputError, match="no intact checkpoint"):
        jaxae.load(tmp_path)
    config = json.loads((finished / "config.json").read_text())
    for name in ("os", "../vae", "my_script.py", "nope"):
        (tmp_path / "config.json").write_text(json.dumps({**config, "experiment": name}))
        with pytest.raises(InputError, match="was trained by"):
            jaxae.load(tmp_path)
    for wrong in ({"config": 3}, {"data": {**config["data"], "shape": ["a"]}}, {"data": 1}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **wrong}))
        with pytest.raises(InputError, match="describes no run"):
            jaxae.load(tmp_path)


def test_another_configuration_raises_and_names_its_differing_fields(finished, tmp_path):
    before = final(finished)
    with pytest.raises(InputError, match=r"epochs=3 there, 4 here; hidden=\[16\] there, \[8\] here"):
        go(finished, epochs=4, hidden=(8,))
    config = json.loads((finished / "config.json").read_text())
    shutil.copytree(finished, tmp_path / "copy")
    config["data"]["fingerprint"] = "0"
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="the data have changed"):
        go(tmp_path / "copy")
    assert equal(final(finished), before)


def test_overwrite_starts_again_and_removes_only_files_of_a_run(finished, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished, workdir)
    (workdir / "notes.txt").write_text("mine")
    go(workdir, epochs=1, overwrite=True)
    assert len(records.read(workdir / "metrics.jsonl")) == 2
    assert (workdir / "notes.txt").read_text() == "mine"


def test_unusable_workdirs_raise(tmp_path):
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
    assert (tmp_path / "damaged" / "checkpoints").exists()  # a file that is not part of a run


def test_run_killed_before_writing_its_config_starts_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json.tmp").write_text("{")
    go(tmp_path / "run", epochs=1)


def test_checkpoint_of_changed_code_raises_and_is_kept(finished, tmp_path):
    workdir = unfinished(finished, tmp_path / "copy")

    def build(config, info):
        experiment = vae.build(config, info)
        return dataclasses.replace(experiment, train=descend(experiment.evaluate, optax.adam(1e-3)))

    with pytest.raises(InputError, match="was written by different code"):
        go(workdir, build)
    assert equal(final(workdir), final(finished))


def test_truncated_metrics_file_raises(finished, tmp_path):
    workdir = unfinished(finished, tmp_path / "copy")
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match="is shorter than at the last checkpoint"):
        go(workdir)


def test_recorded_commit_is_that_of_the_checkout_or_null(monkeypatch):
    if (Path(__file__).parents[1] / ".git").exists() and shutil.which("git"):
        assert len(directory._commit()) == 40
    monkeypatch.setenv("PATH", "/nonexistent")
    assert directory._commit() is None


def test_resume_with_batch_norm_codebook_and_two_optimizers_is_bit_exact(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config = toy.Config(epochs=2, batch_size=128, figures="none")
    run.train(dataclasses.replace(config, workdir=str(whole)), toy.build, "toy")
    while not (parts / "result.json").exists():
        count = iter(range(1000))
        with contextlib.suppress(Interrupted):
            run.train(dataclasses.replace(config, workdir=str(parts)), toy.build, "toy", lambda _: next(count) >= 5)  # noqa: B023
    models = [jaxae.load(path, toy) for path in (whole, parts)]
    assert equal(models[0].params, models[1].params)
    assert equal(models[0].extra, models[1].extra)
    assert set(models[0].extra) == {"batch_stats", "codebook"}
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()


def test_transition_without_a_loss_metric_raises(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def step(state, batch, key):
            state, metrics = experiment.train.step(state, batch, key)
            return state, {"cost": metrics["loss"]}

        return dataclasses.replace(experiment, train=Transition(experiment.train.init, step))

    with pytest.raises(ValueError, match=r"training reports no metric named loss, only \['cost'\]"):
        go(tmp_path / "run", build)


def test_divergence_in_evaluation_names_the_metric_and_step(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def evaluate(variables, batch, key):
            terms, updates = experiment.evaluate(variables, batch, key)
            return {**terms, "kl": terms["kl"] + jnp.inf}, updates

        return dataclasses.replace(experiment, evaluate=evaluate)

    with pytest.raises(Diverged, match="test kl is not finite at step 12"):
        go(tmp_path / "run", build)
    assert [line["split"] for line in records.read(tmp_path / "run" / "metrics.jsonl")] == ["train"]


def test_batch_larger_than_the_training_split_raises(tmp_path):
    with pytest.raises(InputError, match="exceeds the 1438 training examples"):
        go(tmp_path / "run", batch_size=1439)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hidden": (10**8, 10**8)}, "parameters and optimizer state take .* GiB of .*; use fewer seeds"),
        ({"seeds": 10**8}, "parameters and optimizer state take .* GiB of .*; use fewer seeds"),
        ({"epochs": 10**9}, "epochs=1000000000: more than 2147483648 steps"),
    ],
)
def test_runs_too_large_for_the_machine_raise_at_once(tmp_path, fields, says):
    with pytest.raises(InputError, match=says):
        go(tmp_path / "run", **fields)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("says", ["RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes", "INTERNAL: a defect"])
def test_out_of_memory_exits_with_2_and_one_line(tmp_path, capsys, says):
    def compiler(*args):
        raise jax.errors.JaxRuntimeError(says)

    config = dataclasses.replace(SMALL, workdir=str(tmp_path / "run"))
    with pytest.raises((SystemExit, jax.errors.JaxRuntimeError)) as ended:
        run.program(lambda stop: str(run.train(config, vae.build, NAME, stop, compiler=compiler)))
    if says.startswith("RESOURCE"):
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: out of memory; use a smaller --batch-size")
    else:
        assert str(ended.value) == says


def test_divergence_names_the_step_and_keeps_the_last_finite_checkpoint(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def step(state, batch, key):
            state, metrics = experiment.train.step(state, batch, key)
            return state, {**metrics, "kl": jnp.where(state.step == 20, jnp.nan, metrics["kl"])}

        return dataclasses.replace(experiment, train=Transition(experiment.train.init, step))

    with pytest.raises(Diverged, match=r"kl is not finite at step 20 \(seed 0\)"):
        go(tmp_path / "run", build)
    state = final(tmp_path / "run")["state"]
    assert state.step == 12  # the end of the first epoch
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    assert len(records.read(tmp_path / "run" / "metrics.jsonl")) == 2


@pytest.mark.slow
def test_infinite_parameters_are_a_divergence(tmp_path):
    def build(config, info):
        experiment = vae.build(config, info)

        def step(state, batch, key):
            new, metrics = experiment.train.step(state, batch, key)
            broken = optax.tree.scale(jnp.where(state.step == 20, jnp.inf, 1.0), new.params)
            return new._replace(params=broken), metrics

        return dataclasses.replace(experiment, train=Transition(experiment.train.init, step))

    with pytest.raises(Diverged, match="is not finite at step 2[0-9]"):
        go(tmp_path / "run", build)


@pytest.mark.slow
def test_stop_between_checkpoints_saves(finished, tmp_path):
    """Any call of `stop` may be the first to return True."""
    for calls in (0, 1, 4):
        workdir, count = tmp_path / str(calls), iter(range(1000))
        with pytest.raises(Interrupted):
            go(workdir, checkpoint_every=3, stop=lambda _: next(count) >= calls)  # noqa: B023
        assert any(path.name.isdigit() for path in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("every", "unit", "steps"),
    [
        (2, "epochs", [23, 34]),
        (5, "steps", [30, 34]),
        *(pytest.param(n, "steps", [at, 34], marks=pytest.mark.slow) for n, at in ((12, 24), (17, 17))),
    ],
)
def test_checkpoint_every_keeps_the_two_newest(tmp_path, every, unit, steps):
    go(tmp_path / "run", checkpoint_every=every, checkpoint_unit=unit)
    kept = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit())
    assert kept == steps


@pytest.mark.slow
def test_crash_within_an_epoch_resumes_from_the_newest_checkpoint(finished, tmp_path):
    """An exception saves nothing; every restart resumes from a later checkpoint."""

    class Crash(Exception):
        pass

    workdir, crashes, reached = tmp_path / "run", 0, []
    while True:
        count = iter(range(1000))

        def crash(save):
            if next(count) == 9:  # noqa: B023
                raise Crash
            return False

        try:
            go(workdir, checkpoint_every=1, checkpoint_unit="steps", stop=crash)
            break
        except Crash:
            crashes += 1
            reached.append(max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()))
    assert crashes > 1
    assert reached == sorted(set(reached))
    assert {step for step in reached if step not in (12, 23, 34)}
    assert equal(final(workdir), final(finished))
    assert (workdir / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_last_stop_call_comes_after_the_last_save(tmp_path):
    seen = []

    def stop(save):
        if save is None:
            seen.append([path.name for path in (tmp_path / "run" / "checkpoints").iterdir()])
        return False

    go(tmp_path / "run", stop=stop, checkpoint_every=3)
    assert seen == [["34"]]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "checkpoints/12",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("metrics.jsonl", "checkpoints", "result.json")),
    ],
)
def test_links_to_other_directories_raise(finished, tmp_path, name, overwrite):
    workdir, outside = unfinished(finished, tmp_path / "run"), tmp_path / "outside"
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


@pytest.mark.slow
def test_colour_images_train_in_mixed_precision(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (60, 6, 9, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", x)
    workdir = go(tmp_path / "run", data=str(tmp_path / "x.npy"), batch_size=16, latent=5, precision="mixed")
    model = jaxae.load(workdir)
    assert model.encode(x).shape == (60, 5)
    assert model.reconstruct(x).shape == (60, 6, 9, 3)


def test_expected_results_are_upper_bounds_or_ranges(finished):
    line = records.read(finished / "metrics.jsonl")[-1]
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


def test_plan_rejects_a_batch_size_that_does_not_divide_over_devices():
    devices = jax.devices() * 4
    with pytest.raises(ValueError, match="batch_size=10 is not divisible by 4 devices; use 8 or 12"):
        plan("auto", 10, 1, devices)
    assert plan("auto", 8, 1, devices).mode == "pmap"
    assert plan("jit", 8, 1, devices).mode == "jit"
    assert plan("auto", 10, 8, devices).mode == "seeds"
    assert plan("auto", 10, 1, devices[:1]).mode == "one"
