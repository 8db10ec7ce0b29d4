"""What becomes of a run whose disk is full, whose directory is lost or can no longer be written."""

import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import jaxae
from jaxae import log

ROOT = Path(__file__).parents[1]


@contextmanager
def mounted(folder, *options):
    """A file system of its own on the folder."""
    mount = ["mount", "-t", "tmpfs", *options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def running(workdir, *more, beyond=0):
    """An endless run that has a checkpoint of a step beyond this one."""
    command = [sys.executable, "-m", "experiments.dense", "--epochs", "100000", f"--workdir={workdir}", *more]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        while newest(workdir) <= beyond:
            time.sleep(0.1)
        try:
            yield process
        finally:
            process.kill()


def newest(workdir):
    """Step of the newest checkpoint."""
    return max((int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit()), default=0)


def refused(process, workdir, reason):
    """Ends by itself with one line."""
    _, said = process.communicate(timeout=100)
    assert process.returncode == 2, said
    assert said.count("\n") == 1, said
    assert said.startswith((f"error: {workdir}", "error: --workdir: ")), said
    assert f": cannot be written ({reason}): what was saved is kept" in said, said


def whole(workdir, at_least):
    """What was saved is there: a model, and the metrics up to it."""
    step = newest(workdir)
    assert step >= at_least
    jaxae.load(workdir)
    assert step in [line["step"] for line in log.read(workdir / "metrics.jsonl")]


def test_a_full_disk(tmp_path):
    with mounted(tmp_path, "-o", "size=30m"):
        workdir = tmp_path / "run"
        with running(workdir) as process:
            step = newest(workdir)
            subprocess.run(["dd", "if=/dev/zero", f"of={tmp_path}/ballast", "bs=64k"], capture_output=True, check=False)
            refused(process, workdir, "No space left on device")
        (tmp_path / "ballast").unlink()
        whole(workdir, step)
        with running(workdir, beyond=step) as process:  # and goes on
            assert process.poll() is None


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    """A limit on the size of files is met by TensorStore, in C++; lines of metrics are still written."""
    workdir = tmp_path / "run"
    with running(workdir) as process:
        step = newest(workdir)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        refused(process, workdir, "File too large")
    whole(workdir, step)


def test_event_files_that_cannot_be_written(tmp_path):
    """They are written by a thread, for which the main one would wait forever."""
    workdir = tmp_path / "run"
    with running(workdir, "--hidden", "2", "--latent", "2", "--picture-every", "1") as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (400_000, 400_000))
        _, said = process.communicate(timeout=100)
    assert process.returncode == 2
    assert said.count("\n") == 1, said
    assert said.startswith("error: --workdir: cannot be written (File too large)")
    whole(workdir, 1)


def test_a_directory_that_becomes_read_only(tmp_path):
    workdir = tmp_path / "run"
    with running(workdir) as process:
        step = newest(workdir)
        with mounted(workdir / "checkpoints", "-o", "ro"):
            refused(process, workdir, "Read-only file system")
    whole(workdir, step)


def test_a_directory_that_is_lost(tmp_path):
    workdir = tmp_path / "run"
    with running(workdir) as process:
        workdir.rename(tmp_path / "elsewhere")
        refused(process, workdir, "No such file or directory")
    whole(tmp_path / "elsewhere", 1)
