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
from jaxae.commands import encode
from jaxae.errors import InputError
from jaxae.experiments import vae
from jaxae.run import command_line
from jaxae.run.progress import Progress
from test_data import bad_inputs
from test_run import final

ARGS = ["--epochs", "6", "--batch-size", "128", "--hidden", "16", "--figures", "none"]


def command(*args):
    return [sys.executable, "-m", "jaxae", "vae", *map(str, args)]


def call(*args):
    """Exit code of the command, in this process."""
    with pytest.raises(SystemExit) as stop:
        run.main(vae.Config, vae.build, [*map(str, args)])
    return stop.value.code


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    done = subprocess.run(command(*ARGS), cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "digits: 1,438 training and 359 test images of 28x28x1, 10 classes, bytes from 0 to 255"
    assert lines[1].startswith("epoch 1/6  train loss ")
    assert lines[7].startswith("training done: ")
    assert lines[8].startswith("done: test bce ")
    assert done.stderr == ""
    return folder / "runs" / "vae-digits"


@pytest.mark.slow
def test_repeating_a_finished_command_prints_the_result_again(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parents[1])
    assert call(*ARGS) == 0
    assert capsys.readouterr().out.startswith("done: test bce ")


def test_summary_prints_the_layers_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(*ARGS, "--summary") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in ("encoder", "decoder", "end to end")] == [
        "encoder",
        "decoder",
        "end to end",
    ]
    assert f"Total Parameters: {784 * 16 + 16 + 16 * 4 + 4 + 2 * 16 + 16 + 16 * 784 + 784:,}" in out
    assert not any(tmp_path.iterdir())


def test_bad_input_exits_with_2_and_one_line_in_its_own_process(tmp_path):
    done = subprocess.run(command("--nonsense", 1), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "--nonsense" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["R", "D", "--out", "a.npy", "--zzz", "mse"], "unknown: --zzz mse"),
        (["R", "D", "--out", "a.npy", "--mamber=1", "x"], "unknown: --mamber=1 x; did you mean --member?"),
        (["R"], "missing: DATA, --out"),
        (["R", "D", "x"], "missing: --out; unknown: x"),
        (["--zzz"], "RUN needs a value"),
        (["R", "D", "--out"], "--out needs a value"),
        (["R", "D", "--out", "a.npy", "--member", "one"], "--member: invalid literal for int() with base 10: 'one'"),
        (["R", "D", "--out", "a.png"], "--out a.png must end in one of .npy, .csv, .h5ad"),
    ],
)
def test_invalid_arguments_are_named_in_one_line(arguments, line):
    with pytest.raises(InputError) as refused:
        command_line.parse(encode.Options, "", arguments, "jaxae encode")
    assert str(refused.value) == f"{line} (see jaxae encode --help)"


def test_unknown_choice_raises_and_lists_all_choices():
    with pytest.raises(InputError, match=r"^--reduction slow is unknown; use one of fast, reproducible \(see "):
        command_line.parse(vae.Config, "", ["--reduction", "slow"])


def test_missing_platform_is_one_line(tmp_path):
    done = subprocess.run(
        command("--epochs", 1),
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: JAX_PLATFORMS=cuda: JAX finds no such device; unset it")
    assert not (tmp_path / "runs").exists()


def test_folder_of_tfds_without_effect_names_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run.main(vae.Config, vae.build, ["--data-dir", "mine"])
    assert ended.value.code == 2
    assert "error: --data-dir mine has no effect on digits, since it applies to TFDS" in capsys.readouterr().err


def test_default_batch_larger_than_a_small_table_becomes_the_training_split(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i % 7}.5,{i % 4}.1\n" for i in range(30)))
    arguments = ("--data", tmp_path / "t.csv", "--epochs", 2, "--hidden", 4, "--figures", "none")
    for _ in range(2):  # the second time the run is complete
        assert call(*arguments, "--workdir", tmp_path / "run") == 0
        size = vae.Config.batch_size
        assert f"--batch-size {size} exceeds the 27 training examples; using 27\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["batch_size"] == 27
    assert call(*arguments, "--workdir", tmp_path / "other", "--batch-size", 28) == 2
    assert "--batch-size 28 exceeds the 27 training examples; use at most as many" in capsys.readouterr().err


def test_bad_input_leaves_a_finished_run_as_it_is(finished, monkeypatch, capsys):
    monkeypatch.chdir(finished.parents[1])
    saved = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    for arguments, says in (
        (("--data", "mnits"), "did you mean mnist"),
        (("--workdir", "/dev/null/run"), "cannot be written"),
        (("--batch-size", 5000), "exceeds the 1438 training examples"),
        ((*ARGS, "--lr", 1), "--lr 0.001 there, 1.0 here"),
    ):
        assert call(*arguments) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("error: ")
        assert says in err
    assert saved == sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))


def test_bad_data_exits_with_2_and_one_line(tmp_path, capfd, monkeypatch):
    """The cases of `test_data`, through `main` in this process."""
    monkeypatch.chdir(tmp_path)
    for name, (given, says) in bad_inputs(tmp_path / "bad").items():
        code = call("--data", given)
        out, err = capfd.readouterr()
        assert code == 2, name
        assert (out, err.count("\n")) == ("", 1), name
        assert err.startswith("error: "), name
        assert says.replace("data=", "--data ") in err, name  # an argument in Python, a flag here
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
        (["--coordinator", "here", "--num-processes", "2"], "must be HOST:PORT, or auto"),
        (["--coordinator", "here:1", "--num-processes", "2", "--process-id", "2"], "must be below --num-processes 2"),
        (["--kl-cycles", "2"], "--kl-cycles 2 needs a KL warm-up; set --kl-warmup EPOCHS"),  # build
        (["--log-likelihood-samples", "9"], "train with --binarize static"),
        (["--likelihood", "normal", "--likelihood-scale", "0"], "--likelihood-scale 0.0 must be positive"),
        (
            ["--likelihood", "poisson"],
            "--likelihood poisson needs counts (--kind counts); for these data use one of bern",
        ),
        (
            ["--likelihood-scale", "0.2"],
            "--likelihood-scale 0.2 is for --likelihood normal, laplace or student-t only; omit it",
        ),
        (["--accumulate", "2", "--free-bits", "0.5"], "use --accumulate 1 and --reduction fast"),  # the first batch
        (["--data", ""], "--data '' is empty"),  # data
        (["--data", "sprites/7"], "--data sprites/7"),
    ],
)
def test_value_error_about_arguments_exits_with_2_and_names_flags(flags, says, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = call(*ARGS, *flags)
    out, err = capfd.readouterr()
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert out == ""
    assert not any(tmp_path.iterdir())


def test_divergence_exits_with_3(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert call(*ARGS, "--lr", 1e30) == 3
    err = capfd.readouterr().err
    assert err.startswith("diverged: ")
    assert "is not finite at step" in err
    assert "`jaxae replay runs/vae-digits` names the first non-finite value" in err
    assert "Traceback" not in err
    assert call(*ARGS, "--lr", 1e30, "--workdir", "a run") == 3
    assert "`jaxae replay 'a run'` names" in capfd.readouterr().err


def same(a, b):
    config = vae.Config(epochs=6, batch_size=128, hidden=(16,))
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    assert equal(final(a, config), final(b, config))
    assert (
        json.loads((a / "result.json").read_text())["metrics"] == json.loads((b / "result.json").read_text())["metrics"]
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_saves_and_exits_with_128_plus_its_number(finished, tmp_path, number, monkeypatch):
    with subprocess.Popen(
        command(*ARGS), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()  # the first epoch is done
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == "stopped: the same command resumes from here"
    monkeypatch.chdir(tmp_path)
    assert call(*ARGS) == 0
    same(tmp_path / "runs" / "vae-digits", finished)


def test_terminal_shows_one_progress_bar(tmp_path):
    """The bar shows epoch, loss, images per second and time left."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen(command(*ARGS), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:
                break
            if not chunk:
                break
            text += chunk
    os.close(ours)
    assert process.returncode == 0
    bar = text.decode().strip().split("\r")[-1]
    for part in ("epoch 6/6", "100%", "loss ", "images/s", "00:00 left"):
        assert part in bar, bar


def test_time_left_counts_timed_steps_only(capsys, monkeypatch):
    """The bar hides the time left until a step has been timed."""

    def lines(epoch, step, **losses):
        return [{"epoch": epoch, "step": step, "split": split, "loss": loss} for split, loss in losses.items()]

    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    with Progress(4, 40, 10) as progress:
        progress.epoch(lines(1, 10, train=2.0, test=3.0), 50.0)
        progress.update(2, 15, 2.0, 50.0)
        monkeypatch.setattr(time, "monotonic", lambda: 1010.0)
        progress.epoch(lines(2, 20, train=1.0, test=2.0, valid=4.0), 50.0)
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/4  train loss 2.0000  test loss 3.0000  50 images/s",
        "epoch 2/4  train loss 1.0000  test loss 2.0000  valid loss 4.0000  50 images/s  40 s left",
    ]
