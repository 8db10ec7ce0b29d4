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
    """Number of compilations by program name: `steps` trains, `measure` evaluates."""

    def count():
        found = re.findall(r"Finished XLA compilation of jit\((steps|measure)\)", caplog.text)
        return dict(Counter(found))

    with jax.log_compiles():
        yield count


def sweep(workdir, *grid, more=SMALL):
    return sweeps.sweep(loop.never, ["vae", "--grid", *grid, "--workdir", str(workdir), *more])


def assert_is_its_own_run(point, alone, said):
    """Assert that the metrics of a point equal those of a single run up to rounding, and are in the table."""
    for a, b in zip(*(records.read(path / "metrics.jsonl") for path in (alone, point)), strict=True):
        assert records.names(a) == records.names(b)
        for name in records.names(a):
            np.testing.assert_allclose(records.each(a[name]), records.each(b[name]), rtol=1e-5)
    loss = records.read(alone / "metrics.jsonl")[-1]["loss"]
    assert f"{loss['mean']:.4g} ± {loss['std']:.2g}" in said


@pytest.mark.slow
def test_points_that_differ_in_numbers_share_one_program(tmp_path, compiled):
    """Each point has the metrics of its own command up to rounding."""
    said = sweep(tmp_path / "sweep", "latent=2,3", "kl_weight=1,3")
    assert compiled() == {"steps": 2, "measure": 2}  # one per number of latent dimensions
    assert said.count("±") == 4 * 5
    assert (tmp_path / "sweep" / "summary.png").stat().st_size > 5000
    config = vae.Config(**FIELDS, latent=3, kl_weight=3.0, workdir=str(tmp_path / "alone"))
    alone = run.train(config, vae.build, "vae")
    assert_is_its_own_run(tmp_path / "sweep" / "latent=3,kl_weight=3", alone, said)


def test_fields_that_change_the_compiled_step_are_not_shared():
    assert sharing.traceable_fields(vae, vae.Config(**FIELDS), ["lr", "kl_weight"]) == ("lr", "kl_weight")
    assert sharing.traceable_fields(vae, vae.Config(**FIELDS), ["kl_warmup", "lr", "capacity"]) == ("lr",)


@pytest.mark.slow
def test_point_is_finished_when_its_last_file_is_written(tmp_path):
    """The last file is result.json without figures, report.html with figures."""
    config = vae.Config(**FIELDS, workdir=str(tmp_path / "run"))
    assert sweeps.final_metrics(config) is None
    run.train(config, vae.build, "vae")
    assert sweeps.final_metrics(config)["loss"] == records.read(tmp_path / "run" / "metrics.jsonl")[-1]["loss"]
    assert sweeps.final_metrics(dataclasses.replace(config, figures="all")) is None


@pytest.mark.slow
def test_interrupted_sweep_trains_only_unfinished_points(tmp_path, compiled, caplog):
    """The first point is finished; the second was interrupted during training."""
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


@pytest.mark.slow
def test_shards_of_a_slurm_array_complete_the_table(tmp_path, monkeypatch):
    """Each shard trains its own points, and lists all finished points."""
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "12")
    for name, number in (("MIN", 10), ("MAX", 12), ("STEP", 2)):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(number))
    said = sweep(tmp_path, "lr=1e-3,1e-2,2e-2")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["lr=1e-2"]
    assert said.count("not yet") == 2
    said = sweep(tmp_path, "lr=1e-3,1e-2,2e-2", more=(*SMALL, "--shard", "1/2"))
    assert said.count("not yet") == 0


def test_every_point_is_in_one_shard():
    for n in (1, 2, 3, 7, 12):
        points = [point for i in range(n) for point in sweeps.points_of_shard([*range(10)], f"{i + 1}/{n}")]
        assert sorted(points) == [*range(10)]
    assert sweeps.slurm({}) == "1/1"
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MAX": "7"}
    assert sweeps.slurm(array) == "4/8"
    with pytest.raises(InputError, match="has gaps"):
        sweeps.slurm({**array, "SLURM_ARRAY_TASK_COUNT": "3"})


def test_boolean_fields_are_set_by_true_and_false(tmp_path):
    for point in sweeps.grid(["batch-norm=True,False"]):
        config = sweeps.configure(mirrored, [], point, tmp_path)
        assert str(config.batch_norm) == point["batch_norm"]


@pytest.mark.slow
def test_table_marks_a_point_that_diverged(tmp_path, capsys):
    said = sweep(tmp_path, "lr=1e30,1e-3", more=(*SMALL, "--parallel", "auto"))
    assert "| 1e30 | diverged |" in said
    assert said.count("±") == 5
    said = capsys.readouterr().err
    assert "lr=1e30: diverged: " in said
    assert f"`jaxae replay {tmp_path}/lr=1e30` names the first non-finite value" in said
    assert "| 1e30 | diverged |" in sweep(tmp_path, "lr=1e30,1e-3", more=(*SMALL, "--shard", "2/2"))  # another shard


def test_stop_saves_the_current_run_and_nothing_after_a_divergence(tmp_path):
    """`stop` receives the `save` of the current run, and None after a divergence."""
    given = []
    arguments = ["vae", "--grid", "lr=1e30", "--workdir", str(tmp_path), *SMALL]
    sweeps.sweep(lambda save: (given.append(save), False)[1], arguments)
    assert given[-1] is None


def test_flags_are_split_between_sweep_and_experiment():
    words = ["vae", "--seeds", "3", "--grid", "lr=1,2", "latent=2", "--lr", "-1", "--shard=1/2", "--hidden", "8", "9"]
    own, others = sweeps.split(words)
    assert own == ["vae", "--grid", "lr=1,2", "latent=2", "--shard=1/2"]
    assert others == ["--seeds", "3", "--lr", "-1", "--hidden", "8", "9"]


def test_shard_without_points_writes_only_the_table(tmp_path):
    """A job array may be larger than the grid."""
    said = sweep(tmp_path / "sweep", "lr=1e-3", more=(*SMALL, "--shard", "3/3"))
    assert [path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()] == []
    assert "1e-3" in said


@pytest.mark.slow
def test_points_of_another_sweep_raise(tmp_path):
    """All points are checked, not only those of this shard."""
    sweep(tmp_path, "lr=1e-3,1e-2")
    with pytest.raises(InputError, match="lr=1e-3 holds another run: --epochs 2 there, 3 here"):
        sweep(tmp_path, "lr=2e-2,1e-3", more=(*SMALL, "--epochs", "3", "--shard", "1/2"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["vae", "--grid", "lr"], "--grid must be FIELD=A,B, not lr"),
        (["vae", "--grid", "lr=1,"], "--grid must be FIELD=A,B, not lr=1,"),
        (["vae", "--grid", "lr=1", "lr=2"], "a field is given twice"),
        (["vae", "--grid", "lr=x"], "--lr"),
        (["vae", "--grid", "gamma=1"], "--gamma"),
        (["none", "--grid", "lr=1"], "experiment=none is unknown; use one of aae, "),
        (["vae", "--grid", "lr=1", "--shard", "3/2"], "--shard 3/2 must be I/N"),
        (["vae"], "--grid"),
        (["vae", "--grid", "lr=1,1"], "two points have the same name"),
        (["vae", "--grid", "data=a/b,a_b"], "two points have the same name"),
        (["vae", "--grid", "workdir=a,b"], "every point has its own"),
        (["vae", "--grid", "lr=1", "--coordinator", "auto"], "are not for sweeps"),
        (["mirrored", "--grid", "batch_norm=1"], "must be True or False"),
    ],
)
def test_invalid_grid_raises_and_nothing_is_written(tmp_path, monkeypatch, arguments, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=line):
        sweeps.sweep(loop.never, arguments)
    assert not [*tmp_path.iterdir()]


def test_command_reports_bad_input_in_one_line_and_exits_with_2(tmp_path):
    program = [sys.executable, "-m", "jaxae", "sweep"]
    done = subprocess.run([*program, "vae", "--grid", "lr"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: --grid must be FIELD=A,B, not lr\n")


def test_values_of_a_list_field_are_separated_by_spaces(tmp_path):
    (point,) = sweeps.grid(["hidden=256 128"])
    assert sweeps.configure(vae, [], point, tmp_path).hidden == (256, 128)
    assert sweeps.directory_name(point) == "hidden=256-128"
