"""Runs on a full disk, or in a lost or read-only directory."""

import resource
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

import jaxae
from jaxae.training import records

ROOT = Path(__file__).parents[1]


@contextmanager
def mounted(folder, *options):
    """A separate file system on the folder."""
    mount = ["mount", "-t", "tmpfs", *options, "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def running(workdir, *more, beyond=0):
    """An endless run, after its first checkpoint of a step above `beyond`."""
    command = [sys.executable, "-m", "jaxae", "dense", "--epochs", "100000", f"--workdir={workdir}", *more]
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


def ends(process, workdir, reason):
    """Assert that the run ends with a one-line error."""
    _, said = process.communicate(timeout=100)
    assert process.returncode == 2, said
    assert said.count("\n") == 1, said
    assert said.startswith((f"error: {workdir}", "error: --workdir ")), said
    assert f" cannot be written ({reason}): saved checkpoints are kept" in said, said


def saved(workdir, at_least):
    """Assert that model and metrics of the newest checkpoint can be read."""
    step = newest(workdir)
    assert step >= at_least
    jaxae.load(workdir)
    assert step in [line["step"] for line in records.read(workdir / "metrics.jsonl")]


@pytest.mark.slow
def test_full_disk_ends_the_run_and_keeps_what_was_saved(tmp_path):
    with mounted(tmp_path, "-o", "size=30m"):
        workdir = tmp_path / "run"
        with running(workdir) as process:
            step = newest(workdir)
            subprocess.run(["dd", "if=/dev/zero", f"of={tmp_path}/ballast", "bs=64k"], capture_output=True, check=False)
            ends(process, workdir, "No space left on device")
        (tmp_path / "ballast").unlink()
        saved(workdir, step)
        with running(workdir, beyond=step) as process:  # resumes
            assert process.poll() is None


@pytest.mark.slow
def test_unwritable_checkpoint_ends_the_run(tmp_path):
    """TensorStore, in C++, exceeds the limit on file sizes; metrics are still written."""
    workdir = tmp_path / "run"
    with running(workdir) as process:
        step = newest(workdir)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
        ends(process, workdir, "File too large")
    saved(workdir, step)


@pytest.mark.slow
def test_unwritable_event_files_end_the_run(tmp_path):
    """A background thread writes the event files; the main thread must not wait for it."""
    workdir = tmp_path / "run"
    with running(workdir, "--hidden", "2", "--latent", "2", "--picture-every", "1") as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (400_000, 400_000))
        _, said = process.communicate(timeout=100)
    assert process.returncode == 2
    assert said.count("\n") == 1, said
    assert said.startswith("error: --workdir cannot be written (File too large)")
    saved(workdir, 1)


@pytest.mark.slow
def test_read_only_directory_ends_the_run(tmp_path):
    workdir = tmp_path / "run"
    with running(workdir) as process:
        step = newest(workdir)
        with mounted(workdir / "checkpoints", "-o", "ro"):
            ends(process, workdir, "Read-only file system")
    saved(workdir, step)


@pytest.mark.slow
def test_lost_directory_ends_the_run(tmp_path):
    workdir = tmp_path / "run"
    with running(workdir) as process:
        workdir.rename(tmp_path / "elsewhere")
        ends(process, workdir, "No such file or directory")
    saved(tmp_path / "elsewhere", 1)
