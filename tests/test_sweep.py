import dataclasses
import re
import shutil
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import pytest

from jaxae import run
from jaxae.commands import sweep as sweeps
from jaxae.errors import InputError
from jaxae.experiments import mirrored, vae
from jaxae.run import loop, sharing
from jaxae.training import records

SMALL = ("--hidden", "8", "--batch-size", "128", "--epochs", "2", "--seeds", "2", "--figures", "none")
FIELDS = {"hidden": (8,), "batch_size": 128, "epochs": 2, "seeds": 2, "figures": "none"}


@pytest.fixture
def compiled(caplog):
    """How often XLA has compiled the program of each name: `steps` trains, `measure` evaluates."""

    def count():
        found = re.findall(r"Finished XLA compilation of jit\((steps|measure)\)", caplog.text)
        return dict(Counter(found))

    with jax.log_compiles():
        yield count


def sweep(workdir, *grid, more=SMALL):
    return sweeps.sweep(loop.never, ["vae", "--grid", *grid, "--workdir", str(workdir), *more])


def assert_is_its_own_run(point, alone, said):
    """The run of a point has the metrics of the run alone, to rounding, and the table shows them."""
    for a, b in zip(*(records.read(path / "metrics.jsonl") for path in (alone, point)), strict=True):
        assert records.names(a) == records.names(b)
        for name in records.names(a):
            np.testing.assert_allclose(records.each(a[name]), records.each(b[name]), rtol=1e-5)
    loss = records.read(alone / "metrics.jsonl")[-1]["loss"]
    assert f"{loss['mean']:.4g} ± {loss['std']:.2g}" in said


def test_points_that_differ_in_numbers_share_one_program(tmp_path, compiled):
    """Each point is what its own command gives, to rounding."""
    said = sweep(tmp_path / "sweep", "lr=1e-3,3e-3,1e-2", "latent=2,3")
    assert compiled() == {"steps": 2, "measure": 2}  # for each size of the code
    assert said.count("±") == 6 * 5
    assert (tmp_path / "sweep" / "summary.png").stat().st_size > 5000
    for lr, latent in (("1e-3", 2), ("1e-2", 3)):
        config = vae.Config(**FIELDS, lr=float(lr), latent=latent, workdir=str(tmp_path / lr))
        alone = run.train(config, vae.build, "vae")
        assert_is_its_own_run(tmp_path / "sweep" / f"lr={lr},latent={latent}", alone, said)


def test_weights_of_terms_are_numbers_of_the_shared_program(tmp_path, compiled):
    said = sweep(tmp_path / "sweep", "kl_weight=0.5,3", "lr=1e-3,3e-3")
    assert compiled() == {"steps": 1, "measure": 1}
    config = vae.Config(**FIELDS, kl_weight=3.0, lr=3e-3, workdir=str(tmp_path / "alone"))
    alone = run.train(config, vae.build, "vae")
    assert_is_its_own_run(tmp_path / "sweep" / "kl_weight=3,lr=3e-3", alone, said)


def test_what_decides_the_form_of_the_step_is_no_number_of_it():
    assert sharing.traceable_fields(vae, vae.Config(**FIELDS), ["lr", "kl_weight"]) == ("lr", "kl_weight")
    assert sharing.traceable_fields(vae, vae.Config(**FIELDS), ["kl_warmup", "lr", "capacity"]) == ("lr",)


def test_a_point_is_finished_when_its_last_file_is_written(tmp_path):
    """That is result.json without figures, else report.html."""
    config = vae.Config(**FIELDS, workdir=str(tmp_path / "run"))
    assert sweeps.final_metrics(config) is None
    run.train(config, vae.build, "vae")
    assert sweeps.final_metrics(config)["loss"] == records.read(tmp_path / "run" / "metrics.jsonl")[-1]["loss"]
    assert sweeps.final_metrics(dataclasses.replace(config, figures="all")) is None


def test_a_sweep_goes_on_where_it_stopped(tmp_path, compiled, caplog):
    """As if it had not been stopped: the last point is lost within its training, the one before it has ended."""
    said = sweep(tmp_path / "whole", "lr=1e-3,1e-2")
    shutil.copytree(tmp_path / "whole", tmp_path / "sweep")
    kept, lost = tmp_path / "sweep" / "lr=1e-3", tmp_path / "sweep" / "lr=1e-2"
    (lost / "result.json").unlink()
    newest = max((lost / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    stamp = (kept / "metrics.jsonl").stat().st_mtime_ns
    caplog.clear()
    again = sweep(tmp_path / "sweep", "lr=1e-3,1e-2")
    assert again.replace(str(tmp_path / "sweep"), str(tmp_path / "whole")) == said
    assert (kept / "metrics.jsonl").stat().st_mtime_ns == stamp
    assert (lost / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "lr=1e-2" / "metrics.jsonl").read_bytes()
    assert compiled() == {"steps": 1, "measure": 1}


def test_shares_make_the_whole(tmp_path, monkeypatch):
    """Each does its own points and writes down what is there."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "12")
    for name, number in (("MIN", 10), ("MAX", 12), ("STEP", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
    said = sweep(tmp_path, "lr=1e-3,1e-2,2e-2")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["lr=1e-2"]
    assert said.count("not yet") == 2
    said = sweep(tmp_path, "lr=1e-3,1e-2,2e-2", more=(*SMALL, "--shard", "1/2"))
    assert said.count("not yet") == 0


def test_every_point_is_in_one_share():
    for n in (1, 2, 3, 7, 12):
        points = [point for i in range(n) for point in sweeps.points_of_shard([*range(10)], f"{i + 1}/{n}")]
        assert sorted(points) == [*range(10)]
    assert sweeps.slurm({}) == "1/1"
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "7"}
    assert sweeps.slurm(array) == "4/8"
    with pytest.raises(InputError, match="has gaps"):
        sweeps.slurm({**array, "SLURM_ARRAY_TASK_COUNT": "3"})


def test_fields_that_are_true_or_false(tmp_path):
    for point in sweeps.grid(["batch-norm=True,False"]):
        config = sweeps.configure(mirrored, [], point, tmp_path)
        assert str(config.batch_norm) == point["batch_norm"]


def test_a_point_that_diverges_is_noted(tmp_path, capsys):
    said = sweep(tmp_path, "lr=1e30,1e-3", more=(*SMALL, "--parallel", "auto"))
    assert "| 1e30 | diverged |" in said
    assert said.count("±") == 5
    assert "lr=1e30: diverged: " in capsys.readouterr().err
    assert "| 1e30 | diverged |" in sweep(tmp_path, "lr=1e30,1e-3", more=(*SMALL, "--shard", "2/2"))  # another share


def test_after_a_point_that_diverged_there_is_nothing_to_save(tmp_path):
    """What `stop` is given belongs to the run that is going on."""
    given = []
    arguments = ["vae", "--grid", "lr=1e30", "--workdir", str(tmp_path), *SMALL]
    sweeps.sweep(lambda save: (given.append(save), False)[1], arguments)
    assert given[-1] is None


def test_flags_that_are_not_the_sweeps_are_the_experiments():
    words = ["vae", "--seeds", "3", "--grid", "lr=1,2", "latent=2", "--lr", "-1", "--shard=1/2", "--hidden", "8", "9"]
    own, others = sweeps.split(words)
    assert own == ["vae", "--grid", "lr=1,2", "latent=2", "--shard=1/2"]
    assert others == ["--seeds", "3", "--lr", "-1", "--hidden", "8", "9"]


def test_a_share_without_points(tmp_path):
    """An array of jobs may be larger than the grid."""
    said = sweep(tmp_path / "sweep", "lr=1e-3", more=(*SMALL, "--shard", "3/3"))
    assert [path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()] == []
    assert "1e-3" in said


def test_points_of_another_sweep_are_refused(tmp_path):
    """All of them, not only those of this share."""
    sweep(tmp_path, "lr=1e-3,1e-2")
    with pytest.raises(InputError, match="lr=1e-3: holds another run: --epochs 2 there, 3 here"):
        sweep(tmp_path, "lr=2e-2,1e-3", more=(*SMALL, "--epochs", "3", "--shard", "1/2"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["vae", "--grid", "lr"], "--grid lr: must be FIELD=A,B"),
        (["vae", "--grid", "lr=1,"], "--grid lr=1,: must be FIELD=A,B"),
        (["vae", "--grid", "lr=1", "lr=2"], "a field is given twice"),
        (["vae", "--grid", "lr=x"], "--lr"),
        (["vae", "--grid", "gamma=1"], "--gamma"),
        (["none", "--grid", "lr=1"], "experiment=none is unknown: "),
        (["vae", "--grid", "lr=1", "--shard", "3/2"], "--shard 3/2: must be I/N"),
        (["vae"], "--grid"),
        (["vae", "--grid", "lr=1,1"], "two points have the same name"),
        (["vae", "--grid", "data=a/b,a_b"], "two points have the same name"),
        (["vae", "--grid", "workdir=a,b"], "every point has its own"),
        (["vae", "--grid", "lr=1", "--coordinator", "auto"], "are not for sweeps"),
        (["mirrored", "--grid", "batch_norm=1"], "must be True or False"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=line):
        sweeps.sweep(loop.never, arguments)
    assert not [*tmp_path.iterdir()]


def test_the_command(tmp_path):
    """One line and exit code 2; fields of several numbers."""
    program = [sys.executable, "-m", "jaxae", "sweep"]
    done = subprocess.run([*program, "vae", "--grid", "lr"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: --grid lr: must be FIELD=A,B\n")
    (point,) = sweeps.grid(["hidden=256 128"])
    assert sweeps.configure(vae, [], point, tmp_path).hidden == (256, 128)
    assert sweeps.directory_name(point) == "hidden=256-128"
