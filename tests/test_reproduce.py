"""The table of what the experiments reach, from made-up runs."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import script
from jaxae.experiments import deep, sequence, stacked, vae
from jaxae.run import command_line, config
from jaxae.training import records

FOLDER = Path(__file__).parents[1] / "experiments"
RESULTS = json.loads((FOLDER / "results.json").read_text())


@pytest.fixture(scope="module")
def reproduce():
    return script("reproduce")


def write(run, settings, result, pictures, lines=()):
    (run / "figures").mkdir(parents=True)
    device = {"platform": "cpu", "cores": 2}
    (run / "config.json").write_text(json.dumps({"config": config.to_json(settings), "device": device}))
    (run / "report.html").touch()
    (run / "result.json").write_text(json.dumps({"expected": {}, "reached": None, "wall_seconds": 90.0, **result}))
    for picture in pictures:
        Image.fromarray(np.zeros((900, 1300, 3), np.uint8)).save(run / "figures" / f"{picture}.png")
    for line in lines:
        (run / "metrics.jsonl").touch()
        records.append(run / "metrics.jsonl", line)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    seeds = records.fields({"loss": np.array([0.1, 0.3])})
    figures = ("reconstructions", "latent", "codes")
    expected = {"expected": {"loss": 0.3, "code": [1.0, 2.0]}, "reached": False}
    write(path / "deep", deep.Config(seeds=2), {"metrics": {**seeds, "code": 3.0}, **expected}, figures)
    lines = [records.record(e, e, "test", {"loss": np.float32(1 / e)}) for e in range(1, 101)]
    write(path / "stacked", stacked.Config(), {"metrics": {"loss": 0.01}}, figures, lines)
    write(path / "sequence", sequence.Config(), {"metrics": {"loss": 0.5}, "wall_seconds": 600.0}, figures)
    plane = dict(zip(("unequal_areas", "asymmetry", "holes", "roughness"), (0.5, 0.1, 0.02, 3.0), strict=True))
    likelihood = dict.fromkeys(("monte_carlo_error", "ess", "active_units", "rate", "distortion", "bits_per_dim"), 2.5)
    likelihood |= records.fields({"log_likelihood": np.array([-140.0, -142.0])})
    result = {"metrics": {"loss": 150.0}, "plane": plane, "reconstruction_quality": {"mse": 0.04, "ssim": 0.4}}
    result["likelihood"] = likelihood
    write(path / "vae", vae.Config(), result, (*figures, "manifold"))
    worse = {**plane, "unequal_areas": 0.9, "holes": 0.01}
    write(path / "mirrored", vae.Config(), {"metrics": {"loss": 0.04}, "plane": worse}, figures)
    return path


def test_command_is_that_of_the_docstring(reproduce):
    assert reproduce.command("dense") == ["--data", "mnist", "--seeds", "3"]


@pytest.mark.parametrize("name", RESULTS)
def test_recorded_figures_are_of_the_experiments_command(reproduce, name):
    """An entry is optional, and belongs to an experiment."""
    found, module = RESULTS[name], import_module(f"jaxae.experiments.{name}")
    words = shlex.split(found["command"])
    assert words == ["jaxae", name, *reproduce.command(name)]
    config = command_line.parse(module.Config, "", words[2:])
    assert [found[key] for key in ("data", "epochs", "seeds")] == [config.data, config.epochs, config.seeds]
    assert "loss" in found["metrics"]
    for file in reproduce.files(name, found["pictures"]).values():
        assert (FOLDER / file).exists()


def test_readme_of_the_experiments_has_the_recorded_figures(reproduce):
    assert list(RESULTS) == sorted(RESULTS)
    assert (FOLDER / "README.md").read_text() == reproduce.page(RESULTS)


def test_finished_runs_become_entries_and_tables(reproduce, workdir, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"wae": RESULTS["wae"], "vae": RESULTS["vae"]}))
    reproduce.record(workdir, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["deep", "mirrored", "sequence", "stacked", "vae", "wae"]
    assert results["wae"] == RESULTS["wae"]  # without a run here
    assert results["deep"]["metrics"] == {"code": 3.0, "loss": {"mean": 0.2, "std": pytest.approx(0.1414, rel=1e-3)}}
    assert results["deep"]["device"] == "2 CPU cores"
    assert "greedy" in results["stacked"]
    assert results["vae"]["plane"]["holes"] == 0.02
    page = (tmp_path / "README.md").read_text()
    assert "on 2 CPU cores" in " ".join(page.split())
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| [`")}
    assert "| loss ≤ 0.3; code 1 to 2 | loss 0.2 ± 0.14; code 3 (**not reached**) | 2 | - | 90 s |" in rows["deep"]
    assert "| no figure | loss 0.5 | 1 | - | 10 min |" in rows["sequence"]
    assert "| loss 150 | 1 | mse 0.04; ssim 0.4 |" in rows["vae"]
    assert "| `vae` | -141 ± 1.4 | 2.5 | 2.5 | 2.5 | 2.5 | 2.5 | 2.5 |" in page
    assert "## Codebooks" not in page
    assert "| `vae` | 0.5 | 0.1 | 0.02 | 3 |" in page
    assert "better than `mirrored` on each but asymmetry, holes, roughness." in page
    assert "(128-64-32-64-128)" in page
    assert "| 0.01667 | 0.01 | 0.2 ± 0.14 |" in page  # 1 / 60 after three layers of 20 epochs, 1 / 100 at the end
    linked = set(re.findall(r"\]\(([\w-]+\.png)\)", page))
    assert {name for name in linked if not name.startswith("wae")} == {path.name for path in tmp_path.glob("*.png")}
    with Image.open(tmp_path / "vae.png") as image:
        assert image.width == 640


@pytest.mark.parametrize(
    ("have", "fields", "result", "shows"),
    [
        ({"manifold", "latent"}, {}, {"plane": {}}, "manifold"),
        ({"training", "codes", "latent"}, {"picture_every": 50}, {}, "training"),
        ({"training", "codes", "latent"}, {}, {}, "codes"),
        ({"latent"}, {}, {"plane": {}}, "latent"),
        ({"codes", "latent"}, {"noise": 0.5}, {}, "reconstructions"),
        ({"codes", "latent"}, {}, {}, "codes"),
        ({"latent", "tsne"}, {}, {}, "reconstructions"),
        ({"samples", "latent"}, {}, {}, "samples"),
        ({"samples", "traversal"}, {}, {"disentanglement": {"mig": 0.1}}, "traversal"),
        ({"samples", "traversal"}, {}, {}, "samples"),
    ],
)
def test_the_picture_is_what_the_experiment_is_about(reproduce, tmp_path, have, fields, result, shows):
    (tmp_path / "figures").mkdir()
    for name in have:
        (tmp_path / "figures" / f"{name}.png").touch()
    assert reproduce.special(tmp_path, result, {"picture_every": 0, **fields}) == shows


def test_runs_continue_after_a_failure_and_end_with_a_signal(reproduce, workdir, tmp_path, monkeypatch, capsys):
    called, page = [], tmp_path / "README.md"
    codes = iter((2, 0, 143, 0))
    for exit_code, names in ((2, ["dense", "vae"]), (143, ["deep", "vae"])):
        folders = ["--workdir", str(workdir), "--out", str(tmp_path), "--data-dir", "somewhere"]
        monkeypatch.setattr("sys.argv", ["reproduce.py", *names, *folders])
        with pytest.raises(SystemExit) as ended:
            reproduce.main(lambda arguments: called.append(arguments) or next(codes))
        assert ended.value.code == exit_code
    assert [arguments[2] for arguments in called] == ["dense", "vae", "deep"]
    assert called[0][-2:] == [f"--workdir={workdir / 'dense'}", f"--data-dir={Path('somewhere').absolute()}"]
    assert "`vae`" in page.read_text()
    assert f"table: {page}" in capsys.readouterr().out
