"""The command line in its own process: exit codes, one line for bad input, signals."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time

import pytest

from conftest import equal
from jaxae import run
from jaxae.experiments import vae
from jaxae.run.progress import Progress
from test_data import bad_inputs
from test_run import final

ARGS = ["--epochs", "6", "--batch-size", "128", "--hidden", "16"]


def command(*args):
    return [sys.executable, "-m", "jaxae", "vae", *map(str, args)]


def call(*args, cwd, **options):
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, timeout=120, **options)


def refused(done, says):
    assert done.returncode == 2, done
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = call(*ARGS, cwd=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("epoch 1/6  train loss ")
    assert lines[6].startswith("training done: ")
    assert lines[7].startswith("done: test bce ")
    assert lines[-2] == "pictures: runs/vae-digits/figures"
    assert done.stderr == ""
    return folder / "runs" / "vae-digits"


def test_repeating_a_finished_command_prints_the_result_again(finished):
    done = call(*ARGS, cwd=finished.parents[1])
    assert done.returncode == 0
    assert done.stdout.startswith("done: test bce ")


def test_summary_prints_the_layers_and_does_nothing_else(tmp_path):
    done = call(*ARGS, "--summary", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in ("encoder", "decoder", "end to end")]
    assert f"Total Parameters: {784 * 16 + 16 + 16 * 4 + 4 + 2 * 16 + 16 + 16 * 784 + 784:,}" in done.stdout
    assert not any(tmp_path.iterdir())


def test_bad_input_exits_with_2_and_one_line(finished, tmp_path):
    saved = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    refused(call("--nonsense", 1, cwd=tmp_path), "--nonsense")
    refused(call("--data", "mnits", cwd=tmp_path), "did you mean mnist")
    refused(call("--workdir", "/dev/null/run", cwd=tmp_path), "cannot be written")
    refused(call("--batch-size", 5000, cwd=tmp_path), "exceeds the 1438 training examples")
    refused(call(*ARGS, "--lr", 1, cwd=finished.parents[1]), "--lr 0.001 there, 1.0 here")
    assert saved == sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))


def test_bad_data_exits_with_2_and_one_line(tmp_path, capfd, monkeypatch):
    """As `test_data` lists them, through `main` in this process."""
    monkeypatch.chdir(tmp_path)
    for name, (given, says) in bad_inputs(tmp_path / "bad").items():
        with pytest.raises(SystemExit) as stop:
            run.main(vae.Config, vae.build, ["--data", given])
        out, err = capfd.readouterr()
        assert stop.value.code == 2, name
        assert (out, err.count("\n")) == ("", 1), name
        assert err.startswith("error: "), name
        assert says.replace("data=", "--data ") in err, name  # there as an argument, here as a flag
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--lr", "-1"], "--lr -1.0 must be at least 0"),  # config
        (
            ["--batch-size", "10", "--accumulate", "3"],
            "--batch-size 10 is not divisible by 3 microbatches; use 9 or 12",
        ),
        (["--reduction", "reproducible", "--parallel", "jit"], "omit --parallel jit"),  # plan
        (["--num-processes", "2"], "--num-processes 2, --process-id 0 need --coordinator HOST:PORT of process 0"),
        (["--kl-cycles", "2"], "--kl-cycles 2 needs a KL warm-up; set --kl-warmup EPOCHS"),  # build
        (["--log-likelihood-samples", "9"], "train with --binarize static"),
        (["--likelihood", "normal", "--likelihood-scale", "0"], "--likelihood-scale 0.0 must be positive"),
        (["--likelihood-scale", "0.2"], "--likelihood-scale 0.2 is for --likelihood normal only; omit it"),
        (["--accumulate", "2", "--free-bits", "0.5"], "use --accumulate 1 and --reduction fast"),  # the first batch
        (["--data", ""], "--data '' is empty"),  # data
        (["--data", "sprites/7"], "--data sprites/7"),
    ],
)
def test_value_error_about_arguments_exits_with_2_and_names_flags(flags, says, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run.main(vae.Config, vae.build, [*ARGS, *flags])
    out, err = capfd.readouterr()
    assert stop.value.code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert out == ""
    assert not any(tmp_path.iterdir())


def test_divergence_exits_with_3(tmp_path):
    done = call(*ARGS, "--lr", 1e30, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("diverged: ")
    assert "is not finite at step" in done.stderr
    assert "Traceback" not in done.stderr


def same(a, b):
    config = vae.Config(epochs=6, batch_size=128, hidden=(16,))
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    assert equal(final(a, config), final(b, config))
    assert (
        json.loads((a / "result.json").read_text())["metrics"] == json.loads((b / "result.json").read_text())["metrics"]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_exits_with_128_plus_its_number(finished, tmp_path, number):
    with subprocess.Popen(
        command(*ARGS), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()  # the first epoch is done
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "stopped: the same command resumes from here"
    assert call(*ARGS, cwd=tmp_path).returncode == 0
    same(tmp_path / "runs" / "vae-digits", finished)


def test_terminal_shows_one_progress_bar(tmp_path):
    """With a terminal there is one bar: epoch, loss, images per second and time left."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen(command(*ARGS), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            if not piece:
                break
            text += piece
    os.close(ours)
    assert process.returncode == 0
    bar = text.decode().strip().split("\r")[-1]
    for part in ("epoch 6/6", "100%", "loss ", "images/s", "00:00 left"):
        assert part in bar, bar


def test_time_left_counts_timed_steps_only(capsys, monkeypatch):
    """None where a run goes on at the end of an epoch, after which nothing has been trained yet."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with Progress(4, 40, 10) as progress:
        progress.epoch({"epoch": 1, "step": 10, "loss": 2.0}, {"loss": 3.0}, 50.0)
        progress.update(2, 15, 2.0, 50.0)
        monkeypatch.setattr(time, "monotonic", lambda: 1010.0)
        progress.epoch({"epoch": 2, "step": 20, "loss": 1.0}, {"loss": 2.0}, 50.0)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/4  train loss 2.0000  test loss 3.0000  50 images/s",
        "epoch 2/4  train loss 1.0000  test loss 2.0000  50 images/s  40 s left",
    ]
