"""Trackers: what they are passed, and the stores of MLflow, Trackio and Weights & Biases after a resumed run."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import test_hosts
from jaxae.errors import InputError
from jaxae.experiments import vae
from jaxae.run import tracking, wandb
from jaxae.run.tensorboard import TensorBoard
from jaxae.training import records

FIELDS = {"epochs": 4, "hidden": (8,), "batch_size": 16, "checkpoint_every": 3, "figures": "none"}
TABLE = (5 + 3 * np.random.default_rng(0).normal(size=(60, 4))).astype(np.float32)


class Recorder:
    """A tracker that keeps what it is passed."""

    def __init__(self, last_step=-1, fails=False):
        self.last_step, self.fails, self.seen = last_step, fails, []

    def metrics(self, values, step):
        if self.fails:
            raise ConnectionError("no route to the server")
        self.seen.append((step, dict(values)))

    def picture(self, path, step, name):
        self.seen.append((step, name, path))

    def parameters(self, config, final, step):
        self.seen.append((step, dict(config), dict(final)))

    def finish(self, complete):
        self.seen.append(complete)


def trackers(folder, other):
    return tracking.Trackers(TensorBoard(folder / "tensorboard", 0), "mlflow", other)


def line(step, split, **metrics):
    return records.record(step // 5, step, split, metrics)


def test_metrics_of_a_step_are_tracked_once_and_with_their_deviation_over_seeds(tmp_path):
    recorder = Recorder(last_step=5)
    all_trackers = trackers(tmp_path, recorder)
    for step in (5, 10):  # step 5 is tracked already
        rows = [line(step, "train", loss=np.float32(3)), line(step, "test", loss=np.array([1, 4], np.float32))]
        all_trackers.metrics(rows)
    all_trackers.parameters(vae.Config(hidden=(3, 4)), line(10, "test", loss=np.float32(2)))
    all_trackers.finish(False)
    metrics, (step, config, final), complete = recorder.seen
    deviation = 3 / 2**0.5  # n - 1
    expected = {"loss/train": 3, "loss/test": 2.5, "loss/test/std": deviation}
    assert metrics == (10, pytest.approx(expected, rel=1e-6))
    assert (step, final, complete) == (10, {"final/loss": 2}, False)
    assert (config["hidden"], config["latent"]) == ("3 4", 2)


def test_failing_tracker_is_dropped_with_a_warning(tmp_path, caplog):
    recorder = Recorder(fails=True)
    all_trackers = trackers(tmp_path, recorder)
    with caplog.at_level("WARNING", "jaxae"):
        all_trackers.metrics([line(5, "train", loss=np.float32(3))])
    assert "mlflow: no route to the server; no longer tracked" in caplog.text
    all_trackers.finish(True)
    assert recorder.seen == [False]


def test_tracker_that_cannot_be_opened_is_an_input_error(tmp_path, monkeypatch):
    def parameters(*_):
        raise ConnectionError("no route to the server")

    opened = SimpleNamespace(opened=lambda _: SimpleNamespace(parameters=parameters))
    monkeypatch.setitem(sys.modules, "jaxae.run.trackio", opened)
    with (
        pytest.raises(InputError, match="track=trackio: no route to the server; use another, or track=none"),
        tracking.opened(tmp_path, vae.Config(track="trackio"), 0, []),
    ):
        pytest.fail("it was opened")
    assert not (tmp_path / "tensorboard").exists()


def test_weights_and_biases_has_every_metric_of_a_resumed_run_and_all_pictures(tmp_path, monkeypatch):
    """The server keeps the rows, and drops those whose step is not newer than that of the last one."""
    rows = {}

    class Run:
        def __init__(self, **options):
            assert (options["resume"], options["reinit"]) == ("allow", "create_new")
            self.summary, self.starting_step = {}, max(rows, default=-1) + 1
            self.step = self.starting_step

        def log(self, values, step=None):
            self.step = max(self.step, self.step if step is None else step)
            if step is None or step == self.step:
                rows[self.step] = {**rows.get(self.step, {}), **values}

        def finish(self, exit_code):
            self.exit_code = exit_code

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=Run, Image=lambda path, caption: (path, caption)))
    every = [line(step, split, loss=np.float32(step)) for step in (5, 10, 15) for split in ("train", "test")]

    def session(upto, *pictures):
        tracker = wandb.opened(tracking.Identity("jaxae", "run", tmp_path, -1))
        tracker.parameters({}, {}, 0)
        for step in (5, 10, 15)[:upto]:
            for at in (at for at in pictures if step - 5 < at <= step):
                tracker.picture(tmp_path / f"{at}.png", at, "strip")
            if step > tracker.last_step:
                tracker.metrics({f"loss/{row['split']}": row["loss"] for row in every if row["step"] == step}, step)
        for at in (at for at in pictures if at > 5 * upto):
            tracker.picture(tmp_path / f"{at}.png", at, "strip")
        tracker.finish(upto == 3)

    session(1, 2, 4, 9)  # stopped in the second epoch, after the picture of step 9
    session(3, 12, 20)
    assert [step for step, row in rows.items() if "loss/test" in row] == [5, 10, 15]
    shown = [caption for step in sorted(rows) for _, caption in rows[step].get("strip", ())]
    assert shown == ["step 2", "step 4", "step 9", "step 12", "step 20"]


def test_id_of_a_tracked_run_is_kept_in_the_run_directory(tmp_path):
    identity = tracking.Identity("jaxae", "run", tmp_path, -1)
    first, existed = identity.id("wandb")
    assert not existed
    assert identity.id("mlflow", lambda: "7") == ("7", False)
    assert identity.id("wandb") == (first, True)
    assert json.loads((tmp_path / tracking.IDS).read_text()) == {"wandb": first, "mlflow": "7"}
    (tmp_path / tracking.IDS).write_text("{")
    with pytest.raises(InputError, match="tracking.json is damaged"):
        identity.id("wandb")


def test_missing_package_of_a_tracker_raises():
    with pytest.raises(InputError, match=r"track=none_such needs the package none_such: pip install 'jaxae\[none_such"):
        tracking.require("none_such")


# Trains in a process of its own, since the stores keep global state. With a second argument the process is killed when
# metrics.jsonl has so many lines.
TRAINS = """
import os, signal, sys, time
from pathlib import Path
from jaxae import run
from jaxae.experiments import vae

def stop(save):
    if sys.argv[2:] and Path("run/metrics.jsonl").read_text().count("\\n") == int(sys.argv[2]):
        time.sleep(1.5)  # Trackio writes every half second
        os.kill(os.getpid(), signal.SIGKILL)
    return False

config = vae.Config(**eval(sys.argv[1]))
run.train(config, vae.build, "vae", stop)
"""


def interrupted_and_resumed(tmp_path, tracker, env):
    """The run directory of a run that was killed in its last epoch, resumed, and then extended."""
    np.save(tmp_path / "x.npy", TABLE)
    workdir = tmp_path / "run"
    fields = {**FIELDS, "data": str(tmp_path / "x.npy"), "test": "12", "track": tracker, "workdir": str(workdir)}

    def train(*lines, **other):
        command = [sys.executable, "-c", TRAINS, repr({**fields, **other}), *lines]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, cwd=tmp_path)

    killed = train("8")  # after the metrics of epoch 4; the checkpoint is that of epoch 3
    assert killed.returncode == -9, killed.stderr[-2000:]
    for other in ({}, {"epochs": 5}):
        done = train(**other)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "no longer tracked" not in done.stderr
    return workdir


def expected_metrics(workdir):
    """Values by name and step."""
    return {
        (f"{name}/{row['split']}", row["step"]): row[name]
        for row in records.read(workdir / "metrics.jsonl")
        for name in records.names(row)
    }


@pytest.mark.slow
def test_mlflow_has_each_metric_once_after_a_kill_a_resume_and_an_extension(tmp_path):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    uri = f"sqlite:///{tmp_path}/store.db"
    workdir = interrupted_and_resumed(tmp_path, "mlflow", {"MLFLOW_TRACKING_URI": uri})
    (found,) = mlflow_runs(uri)
    assert (found["status"], found["name"]) == ("FINISHED", "run")
    assert found["id"] == json.loads((workdir / tracking.IDS).read_text())["mlflow"]
    assert (found["params"]["hidden"], found["params"]["epochs"]) == ("8", "4")
    history = [((name, step), value) for name, step, value in found["history"] if not name.startswith("final/")]
    assert len(dict(history)) == len(history)  # none twice
    assert dict(history) == pytest.approx(expected_metrics(workdir))
    last = records.read(workdir / "metrics.jsonl")[-1]
    assert {name: value for name, _, value in found["history"]}["final/loss"] == pytest.approx(last["loss"])


def mlflow_runs(uri):
    """The runs of a store, read in a process of its own, since MLflow's imports warn."""
    reads = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
found = client.search_runs([client.get_experiment_by_name("jaxae").experiment_id])
rows = lambda run: [row for name in run.data.metrics for row in client.get_metric_history(run.info.run_id, name)]
print(json.dumps([{
    "id": run.info.run_id, "name": run.info.run_name, "status": run.info.status, "params": run.data.params,
    "history": sorted((row.key, row.step, row.value) for row in rows(run)),
} for run in found]))
"""
    done = subprocess.run([sys.executable, "-c", reads, uri], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_trackio_has_each_metric_once_after_a_kill_a_resume_and_an_extension(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="the extra trackio is not installed")
    workdir = interrupted_and_resumed(tmp_path, "trackio", {"TRACKIO_DIR": str(tmp_path / "store")})
    reads = """
import json
from trackio.sqlite_storage import SQLiteStorage
(found,) = SQLiteStorage.get_run_records("jaxae")
rows = SQLiteStorage.get_logs("jaxae", found["name"])
config = SQLiteStorage.get_run_config("jaxae", found["name"])
print(json.dumps([found["name"], config, [{k: v for k, v in row.items() if k != "timestamp"} for row in rows]]))
"""
    env = {**os.environ, "TRACKIO_DIR": str(tmp_path / "store")}
    text = subprocess.run([sys.executable, "-c", reads], capture_output=True, text=True, env=env, check=True).stdout
    name, config, rows = json.loads(text)
    assert name == f"run-{json.loads((workdir / tracking.IDS).read_text())['trackio']}"
    assert config["hidden"] == "8"
    found = [((key, row["step"]), value) for row in rows for key, value in row.items() if key != "step"]
    values = {key: value for key, value in found if not key[0].startswith("final/")}
    assert len(values) == sum(not key[0].startswith("final/") for key, _ in found)
    assert values == pytest.approx(expected_metrics(workdir))


@pytest.mark.slow
def test_weights_and_biases_offline_has_all_metrics_in_one_run(tmp_path):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    workdir = interrupted_and_resumed(tmp_path, "wandb", {"WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    own = json.loads((workdir / tracking.IDS).read_text())["wandb"]
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert folders
    assert all(name.endswith(f"-{own}") for name in folders)
    last = max((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert offline_metrics(last) == pytest.approx(expected_metrics(workdir))


def offline_metrics(file):
    """The metrics of a file of Weights & Biases, by name and step: a LevelDB log of serialized records."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, found = file.read_bytes(), 7, b"", {}  # after the header of the file
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:  # the rest of a block is padding
            at += 2**15 - at % 2**15
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts, at = parts + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a complete record, or the last part of one
            row = Record.FromString(parts).history
            names = ("/".join(item.nested_key) or item.key for item in row.item)
            values = {name: json.loads(item.value_json) for name, item in zip(names, row.item, strict=True)}
            found |= {(name, values["_step"]): value for name, value in values.items() if not name.startswith("_")}
            parts = b""
    return found


@pytest.mark.slow
def test_two_processes_track_one_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    uri = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with test_hosts.two(tmp_path / "run", *test_hosts.FEW, "--track", "mlflow", "--patience", "600") as processes:
        assert [process.wait(600) for process in processes] == [0, 0], processes[0].communicate()
    (found,) = mlflow_runs(uri)
    history = [(step, value) for name, step, value in found["history"] if name == "loss/test"]
    rows = [row for row in records.read(tmp_path / "run/metrics.jsonl") if row["split"] == "test"]
    assert history == [(row["step"], row["loss"]) for row in rows]
