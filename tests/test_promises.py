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

import numpy as np
import pytest

from conftest import script
from jaxae import data, run
from jaxae.errors import InputError
from jaxae.experiments import dense
from jaxae.run import directory

SCRIPTS = Path(__file__).parents[1] / "scripts"
SMALL = dense.Config(epochs=2, batch_size=100, hidden=(16,), latent=2, figures="none")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "finished"
    return run.train(dataclasses.replace(SMALL, workdir=str(path)), dense.build, "dense")


def test_reproduce_run_repeats_a_run_from_its_config_alone(finished, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reproduce_run.py", str(finished)])
    with pytest.raises(SystemExit) as ended:
        script("reproduce_run").main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("the same, to the byte")


def test_reproduce_run_names_what_differs(finished, tmp_path, monkeypatch, capsys):
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


def test_reproduce_run_refuses_a_workdir_with_a_run(finished, tmp_path, monkeypatch, capsys):
    """Nor over itself; also one that was begun with --overwrite."""
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    saved = json.loads((other / "config.json").read_text())
    saved["config"]["overwrite"] = True
    (other / "config.json").write_text(json.dumps(saved))
    before = (finished / "metrics.jsonl").read_bytes()
    for run_path, workdir, code in ((other, finished, 2), (other, other, 2), (other, tmp_path / "new", 0)):
        monkeypatch.setattr("sys.argv", ["reproduce_run.py", str(run_path), "--workdir", str(workdir)])
        with pytest.raises(SystemExit) as ended:
            script("reproduce_run").main()
        assert ended.value.code == code
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert "holds a run already" in capsys.readouterr().err


def test_second_process_in_a_workdir_is_refused(tmp_path):
    """The second is refused, in one line, and leaves everything as it is; the lock dies with its process."""
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "jaxae", "dense", "--epochs", "2000", f"--workdir={workdir}"]
    with subprocess.Popen(command, cwd=SCRIPTS.parent, stdout=subprocess.PIPE, text=True) as first:
        first.stdout.readline()  # the first epoch is done
        second = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True, check=False)
        overwriting = subprocess.run([*command, "--overwrite"], capture_output=True, cwd=SCRIPTS.parent, check=False)
        assert first.poll() is None
        first.kill()
    assert (second.returncode, overwriting.returncode) == (2, 2)
    assert (
        second.stderr == f"error: --workdir {workdir}: another process is running in it: wait for it, or use another\n"
    )
    with subprocess.Popen(
        command, cwd=SCRIPTS.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as third:
        third.stdout.readline()
        third.send_signal(signal.SIGTERM)
        assert third.wait(60) == 143


def test_workdir_lock_is_released(tmp_path):
    for _ in range(2):
        with directory.locked(tmp_path), pytest.raises(InputError, match="another process"), directory.locked(tmp_path):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), directory.locked(tmp_path / "file" / "run"):
        pass


COMMAND = ["jaxae", "dense", "--epochs", "12", "--batch-size", "20", "--hidden", "8", "--latent", "2"]


UPDATE = ["--optimizer", "lion", "--schedule", "cosine", "--warmup-steps", "5", "--clip", "0.1", "--ema", "0.9"]


@pytest.mark.parametrize(
    ("kills", "more"),
    [(3, []), pytest.param(25, [], marks=pytest.mark.slow), pytest.param(15, UPDATE, marks=pytest.mark.slow)],
)
def test_resume_after_sigkill_is_bit_exact(kills, more, tmp_path, monkeypatch, capsys):
    """No kill leaves a trace, and none needs a hand."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))  # half written entries stay here
    np.savez(tmp_path / "few.npz", x=data.load("digits").train.x[:80])
    torture, command = script("torture"), [*COMMAND, *more, "--data", str(tmp_path / "few.npz")]
    assert not torture.start(command, tmp_path / "compiles").wait()  # so that the others are quicker
    assert not torture.torture(command, kills, random.Random(1), tmp_path)
    said = capsys.readouterr().out
    assert f"{kills} kills in " in said
    assert "\n0 of " in said


def test_torture_reports_a_difference(tmp_path, capsys):
    """If the outcome of a run that was killed were another, it would be said."""
    torture = script("torture")

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
            return 0

        def send_signal(self, number):
            pass

    seen = itertools.count()
    assert torture.torture(COMMAND, 1, random.Random(1), tmp_path, start=Process, outcome=lambda path: next(seen))
    assert "DIFFERENT; 1 of 1 kills" in capsys.readouterr().out
