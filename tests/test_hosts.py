"""Two processes that train together over the loopback interface."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxae
from jaxae.training import records
from jaxae.training.checkpoint import newest_digests

ROOT = Path(__file__).parents[1]
HEARTBEAT = 10
SHORT = ("--hidden", "16", "--latent", "2", "--batch-size", "64", "--heartbeat", str(HEARTBEAT))
EPOCHS = ("--epochs", "20")
FEW = ("--epochs", "4")
ENDLESS = ("--epochs", "100000")


def command(workdir, *more):
    return [sys.executable, "-m", "jaxae", "vae", f"--workdir={workdir}", "--figures", "none", *SHORT, *more]


@contextmanager
def started(devices, *commands, **environment):
    """Start processes with this many devices each; `environment` holds lists with one value per process."""
    own = [{name: values[i] for name, values in environment.items()} for i in range(len(commands))]
    common = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen(command, cwd=ROOT, env=common | mine, text=True, **pipes)
        for command, mine in zip(commands, own, strict=True)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def free_port(port=0):
    """A free port: this one if possible, otherwise any."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        return free.getsockname()[1]


def two(workdir, *more, ids=(0, 1)):
    """Start both processes of a run, or only those in `ids`."""
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2")
    return started(2, *(command(workdir, *where, "--process-id", str(i), *more) for i in ids))


def done(processes, timeout=120):
    """Wait for exit code 0; return standard output and standard error of each process."""
    said = [process.communicate(timeout=timeout) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def wait_for(processes, workdir, lines, timeout=60):
    """Wait until metrics.jsonl has this many lines."""
    end = time.monotonic() + timeout
    metrics = workdir / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < end
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A short run of two processes in a SLURM environment."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    job = 7  # JAX derives the coordinator's port from SLURM_JOB_ID: 61440 + job ID modulo 4096
    slurm = {
        "SLURM_JOB_ID": [str(free_port(61440 + job) - 61440)] * 2,
        "SLURM_STEP_NODELIST": ["localhost"] * 2,
        "SLURM_NTASKS": ["2"] * 2,
        "SLURM_PROCID": ["0", "1"],
        "SLURM_LOCALID": ["0", "1"],
    }
    with started(2, *[command(workdir, *FEW, "--coordinator", "auto")] * 2, **slurm) as processes:
        leader, follower = done(processes)
    assert "done: test" in leader[0]
    assert follower[0].replace("[Gloo]", "").count("done") == 0  # only process 0 writes
    return workdir


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A short run of one process with as many devices as the two together."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    with started(4, command(workdir, *FEW)) as processes:
        done(processes)
    return workdir


def same_metrics(ours, theirs):
    """Whether these lines agree up to rounding."""
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in ("epoch", "step", *records.names(b)):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5)


@pytest.mark.slow
def test_slurm_variables_join_the_processes(cluster):
    assert json.loads((cluster / "config.json").read_text())["device"]["count"] == 4


@pytest.mark.slow
def test_metrics_of_two_processes_equal_those_of_one_with_as_many_devices(cluster, one):
    same_metrics(*(records.read(path / "metrics.jsonl") for path in (cluster, one)))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["pmap", "jit", "fsdp"])
def test_parameters_of_two_processes_equal_those_of_one_with_as_many_devices(one, tmp_path, mode):
    workdir = tmp_path / "run"
    with two(workdir, *FEW, "--parallel", mode) as processes:
        done(processes)
    here, there = (np.concatenate([np.ravel(leaf) for leaf in leaves(path)]) for path in (workdir, one))
    assert np.linalg.norm(here - there) < 1e-5 * np.linalg.norm(there)
    same_metrics(*(records.read(path / "metrics.jsonl") for path in (workdir, one)))


@pytest.mark.slow
def test_sharded_state_of_two_processes_resumes_bit_exact_and_on_one_device(tmp_path):
    """The state, the best one so far, and pictures of it are gathered from both processes."""
    flags = ("--epochs", "8", "--parallel", "fsdp", "--valid", "0.2", "--keep", "best", "--figures", "all")
    whole, workdir = tmp_path / "whole", tmp_path / "run"
    with two(whole, *flags) as processes:
        done(processes)
    with two(workdir, *flags) as processes:
        wait_for(processes, workdir, 3)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [143, 143]
    with two(workdir, *flags) as processes:
        done(processes)
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert newest_digests(workdir / "checkpoints") == newest_digests(whole / "checkpoints")
    with started(1, command(workdir, *flags, "--epochs", "9", "--parallel", "auto")) as processes:
        done(processes)
    assert records.read(workdir / "metrics.jsonl")[-1]["epoch"] == 9


def leaves(workdir):
    return jax.tree.leaves(jaxae.load(workdir).params)


@pytest.mark.slow
def test_killed_or_stopped_processes_resume_bit_exact(tmp_path):
    """A signal to either process ends both, and the same commands resume the run."""
    whole, workdir, lines = tmp_path / "whole", tmp_path / "run", 0
    with two(whole, *EPOCHS) as processes:
        done(processes)
    for victim, number in ((v, s) for v in (0, 1) for s in (signal.SIGTERM, signal.SIGKILL)):
        with two(workdir, *EPOCHS) as processes:
            wait_for(processes, workdir, lines + 3)
            processes[victim].send_signal(number)
            began = time.monotonic()
            said = [process.communicate(timeout=HEARTBEAT + 5) for process in processes]
            assert time.monotonic() - began < HEARTBEAT + 5
            codes = [process.returncode for process in processes]
        if number == signal.SIGTERM:
            assert codes == [143, 143], said
            assert all("stopped: the same command resumes from here" in line for _, line in said), said
            written = records.read(workdir / "metrics.jsonl")[-1]["step"]
            assert int(newest_digests(workdir / "checkpoints")["step"]) >= written > 0
        else:
            assert codes[victim] == -signal.SIGKILL
            assert codes[1 - victim] != 0
        lines = len(records.read(workdir / "metrics.jsonl"))
    with two(workdir, *EPOCHS) as processes:
        done(processes)
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert newest_digests(workdir / "checkpoints") == newest_digests(whole / "checkpoints")


LATE = """
import runpy, sys, time
from sklearn import datasets
load, late, module = datasets.load_digits, float(sys.argv.pop(1)), sys.argv.pop(1)
datasets.load_digits = lambda: (time.sleep(late), load())[1]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_other_processes_wait_until_the_data_is_prepared(tmp_path):
    """Their wait exceeds Gloo's timeout and `--patience`."""
    where = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--patience", "10")
    commands = [command(tmp_path / "run", *FEW, *where, "--process-id", str(i)) for i in (0, 1)]
    commands = [
        [python, "-c", LATE, late, *rest] for (python, _, *rest), late in zip(commands, ("40", "0"), strict=True)
    ]
    with started(1, *commands, JAXAE_CACHE=[str(tmp_path / "cache")] * 2) as processes:
        done(processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "line"),
    [
        (["--batch-size", "63"], 2, "error: --batch-size 63 is not divisible by 4 devices"),
        (["--lr", "1e30"], 3, "diverged: "),
    ],
    ids=["bad input", "divergence"],
)
def test_error_of_one_process_ends_all_with_the_same_code(tmp_path, flags, code, line):
    with two(tmp_path / "run", *FEW, *flags) as processes:
        said = [process.communicate(timeout=60) for process in processes]
        assert [process.returncode for process in processes] == [code] * 2, said
    for _, error in said:
        (own,) = [text for text in error.splitlines() if "[Gloo]" not in text]
        assert own.startswith(line)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [0, 1])
def test_missing_process_exits_with_2_after_patience(tmp_path, alone):
    with two(tmp_path / "run", "--patience", "4", ids=[alone]) as (process,):
        began = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert time.monotonic() - began < 20
    assert process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if "[Gloo]" not in line]
    assert line.startswith("error: --coordinator 127.0.0.1:")
    assert "not all processes joined within 4 s" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_process_ends_with_its_stacks_when_another_hangs(tmp_path):
    """The other process prints the stack of every thread, and ends."""
    workdir = tmp_path / "run"
    with two(workdir, *ENDLESS, "--heartbeat", "100", "--patience", "8") as processes:
        wait_for(processes, workdir, 4)
        processes[1].send_signal(signal.SIGSTOP)
        _, said = processes[0].communicate(timeout=40)
    assert processes[0].returncode == 1
    assert "Timeout (0:00:08)!" in said
    assert "loop.py" in said
    assert jaxae.load(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "there"), [("--lr", "0.001"), ("--checkpoint-every", "1")])
def test_process_of_another_run_exits_with_2(tmp_path, flag, there):
    with two(tmp_path / "run", ids=[0]) as (first,):
        with started(2, [*first.args[:-1], "1", flag, "7"]) as (second,):
            _, said = second.communicate(timeout=60)
        assert second.returncode == 2, said
        assert f"--process-id 1: differs from process 0: {flag} {there} there, 7" in said
        first.communicate(timeout=HEARTBEAT + 5)
        assert first.returncode != 0


@pytest.mark.slow
def test_missing_cluster_exits_with_2_and_one_line(tmp_path):
    with started(1, command(tmp_path / "run", "--coordinator", "auto")) as (process,):
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("error: --"), said
    assert said.count("\n") == 1, said
    assert "no cluster is found; give HOST:PORT" in said
    assert not (tmp_path / "run").exists()
