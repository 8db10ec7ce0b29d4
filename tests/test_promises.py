"""The README's promises about interrupted, repeated and concurrent runs."""

import dataclasses
import errno
import itertools
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import call, script
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


@pytest.mark.slow
def test_repeated_run_is_bit_exact(finished, capsys):
    assert call("repeat", finished) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("equal bit for bit")


def test_repeat_names_what_differs(finished, tmp_path, capsys):
    """A changed digit of a metric, and recorded versions and device that differ from the current ones."""
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    text = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(text.replace('"epoch": 2', '"epoch": 3', 1))
    saved = json.loads((other / "config.json").read_text())
    saved["versions"]["jax"], saved["device"]["kind"] = "0.0.1", "abacus"
    (other / "config.json").write_text(json.dumps(saved))
    assert call("repeat", other) == 1
    said = capsys.readouterr().out.splitlines()
    assert "different: metrics.jsonl" in said
    assert any(line.startswith("versions jax: 0.0.1 then, ") for line in said)
    assert any(line.startswith("device kind: abacus then, ") for line in said)
    assert not any(line.startswith("data ") for line in said)


def test_repeat_rejects_a_workdir_with_a_run(finished, tmp_path, capsys):
    """The run's own workdir raises too, also for a run started with --overwrite."""
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    saved = json.loads((other / "config.json").read_text())
    saved["config"]["overwrite"] = True
    (other / "config.json").write_text(json.dumps(saved))
    before = (finished / "metrics.jsonl").read_bytes()
    for run_path, workdir, code in ((other, finished, 2), (other, other, 2), (other, tmp_path / "new", 0)):
        assert call("repeat", run_path, "--workdir", workdir) == code
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert "already holds a run" in capsys.readouterr().err


def test_second_process_in_a_workdir_is_an_error(tmp_path, capfd):
    """The error is one line, also with --overwrite. The lock is released when its process ends."""
    workdir = tmp_path / "run"
    flags = ["--epochs", "2000", f"--workdir={workdir}"]
    command = [sys.executable, "-m", "jaxae", "dense", *flags]
    with subprocess.Popen(command, cwd=SCRIPTS.parent, stdout=subprocess.PIPE, text=True) as first:
        try:
            first.stdout.readline()  # the first epoch is done
            for more in ([], ["--overwrite"]):
                with pytest.raises(SystemExit) as ended:
                    run.main(dense.Config, dense.build, [*flags, *more])
                assert ended.value.code == 2
                said = "is in use by another process; wait until it ends, or use another workdir"
                line = f"error: --workdir {workdir} {said}\n"
                assert capfd.readouterr().err == line
            assert first.poll() is None
        finally:
            first.kill()
    with directory.locked(workdir):
        pass


def test_workdir_lock_is_released(tmp_path):
    for _ in range(2):
        with directory.locked(tmp_path), pytest.raises(InputError, match="another process"), directory.locked(tmp_path):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), directory.locked(tmp_path / "file" / "run"):
        pass


def test_file_system_without_locks_is_only_a_warning(tmp_path, monkeypatch, caplog):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(directory.fcntl, "flock", no_locks)
    with directory.locked(tmp_path):
        pass
    assert "does not support locks; do not start a second run in this directory" in caplog.text


COMMAND = ["jaxae", "dense", "--epochs", "12", "--batch-size", "20", "--hidden", "8", "--latent", "2"]


UPDATE = ["--optimizer", "lion", "--schedule", "cosine", "--warmup-steps", "5", "--clip", "0.1", "--ema", "0.9"]


@pytest.mark.parametrize(
    ("kills", "more"),
    [
        pytest.param(1, ["--figures", "none"], id="one kill"),
        pytest.param(25, [], marks=pytest.mark.slow, id="many kills"),
        pytest.param(15, UPDATE, marks=pytest.mark.slow, id="optimizer"),
    ],
)
def test_resume_after_sigkill_is_bit_exact(kills, more, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))  # a kill may leave a truncated entry
    np.savez(tmp_path / "few.npz", x=data.load("digits").train.x[:80])
    torture, command = script("torture"), [*COMMAND, *more, "--data", str(tmp_path / "few.npz")]
    assert not torture.start(command, tmp_path / "compiles").wait()  # fills the compilation cache
    assert not torture.torture(command, kills, random.Random(5), tmp_path)  # the first kill comes late
    said = capsys.readouterr().out
    assert f"{kills} kills in " in said
    assert "\n0 of " in said


def test_torture_reports_a_difference(tmp_path, capsys):
    torture = script("torture")

    class Process:
        """Exceeds the first timeout, and ends before the second."""

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
