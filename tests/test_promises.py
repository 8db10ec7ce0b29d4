"""What the README promises of stopped, repeated and simultaneous runs, by the scripts that show it."""

import dataclasses
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import script
from experiments import dense
from jaxae import directory, run
from jaxae.errors import InputError

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = dense.Config(epochs=2, batch_size=100, hidden=(16,), latent=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    return run.train(dataclasses.replace(SMALL, workdir=str(path)), dense.build, "experiments.dense")


def test_a_run_is_repeated_from_its_description_alone(finished, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reproduce_run.py", str(finished)])
    with pytest.raises(SystemExit) as ended:
        script("reproduce_run").main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("the same, to the byte")


def test_what_differs_is_said(finished, tmp_path, monkeypatch, capsys):
    """One digit of one metric, and the recorded facts that are not those of here."""
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(text.replace('"epoch": 2', '"epoch": 3', 1))
    saved = json.loads((other / "config.json").read_text())
    saved["versions"]["jax"], saved["device"]["kind"] = "0.0.1", "abacus"
    (other / "config.json").write_text(json.dumps(saved))
    monkeypatch.setattr("sys.argv", ["reproduce_run.py", str(other)])
    with pytest.raises(SystemExit) as ended:
        script("reproduce_run").main()
    assert ended.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert "not the same: metrics.jsonl" in said
    assert any(line.startswith("versions jax: 0.0.1 then, ") for line in said)
    assert any(line.startswith("device kind: abacus then, ") for line in said)
    assert not any(line.startswith("data ") for line in said)


def test_two_runs_in_one_directory_are_not_to_be(tmp_path):
    """The second is refused, in one line, and leaves everything as it is; the lock dies with its process."""
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.dense", "--epochs", "2000", f"--workdir={workdir}"]
    with subprocess.Popen(command, cwd=SCRIPTS.parent, stdout=subprocess.PIPE, text=True) as first:
        first.stdout.readline()  # the first epoch is done
        second = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True, check=False)
        overwriting = subprocess.run([*command, "--overwrite"], capture_output=True, cwd=SCRIPTS.parent, check=False)
        assert first.poll() is None
        first.kill()
    assert (second.returncode, overwriting.returncode) == (2, 2)
    assert (
        second.stderr == f"error: --workdir {workdir}: another process is running in it: wait for it, or give another\n"
    )
    with subprocess.Popen(
        command, cwd=SCRIPTS.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as third:
        third.stdout.readline()
        third.send_signal(signal.SIGTERM)
        assert third.wait(60) == 143


def test_the_lock_is_given_back(tmp_path):
    for _ in range(2):
        with directory.alone(tmp_path), pytest.raises(InputError, match="another process"), directory.alone(tmp_path):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), directory.alone(tmp_path / "file" / "run"):
        pass


def test_torture_sees_a_difference(tmp_path, monkeypatch, capsys):
    """Two kills of a small run leave no trace; and if the outcome were another, it would be said."""
    command = ["experiments.dense", "--epochs", "3", "--batch-size", "100", "--hidden", "8", "--latent", "2"]
    torture = script("torture")
    assert not torture.torture(command, 2, random.Random(1), tmp_path / "a")
    assert "0 of them different" in capsys.readouterr().out

    class Process:
        """Is killed once, and done when it is asked again."""

        asked = itertools.count()

        def __init__(self, command, workdir):
            self.workdir = workdir

        def wait(self, seconds=None):
            if seconds is not None and next(self.asked) == 0:
                raise subprocess.TimeoutExpired("", seconds)
            self.workdir.mkdir(exist_ok=True)
            (self.workdir / "report.html").touch()

        def kill(self):
            pass

    seen = itertools.count()
    monkeypatch.setattr(torture, "start", Process)
    monkeypatch.setattr(torture, "outcome", lambda path: next(seen))
    assert torture.torture(command, 1, random.Random(1), tmp_path)
    assert "1 kills, DIFFERENT" in capsys.readouterr().out
