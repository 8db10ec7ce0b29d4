"""The table of what the experiments reach, from made-up runs."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import script
from jaxae.experiments import deep, sequence, stacked, vae
from jaxae.run import config
from jaxae.training import records


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
    result = {"metrics": {"loss": 150.0}, "plane": plane, "likeness": {"mse": 0.04, "ssim": 0.4}}
    result["likelihood"] = likelihood
    write(path / "vae", vae.Config(), result, (*figures, "manifold"))
    worse = {**plane, "unequal_areas": 0.9, "holes": 0.01}
    write(path / "mirrored", vae.Config(), {"metrics": {"loss": 0.04}, "plane": worse}, figures)
    return path


def test_every_experiment_has_a_command(reproduce):
    assert reproduce.command("dense") == ["--data", "mnist", "--seeds", "3"]
    assert all({"mnist", "sprites"} & set(reproduce.command(name)) for name in reproduce.NAMES)


def test_table(reproduce, workdir, tmp_path):
    page = reproduce.table(workdir, ["deep", "mirrored", "sequence", "stacked", "vae"], tmp_path)
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
    assert linked == {path.name for path in tmp_path.iterdir()}
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
        ({"samples", "traversal"}, {"data": "sprites"}, {}, "traversal"),
    ],
)
def test_the_picture_is_what_the_experiment_is_about(reproduce, tmp_path, have, fields, result, shows):
    (tmp_path / "figures").mkdir()
    for name in have:
        (tmp_path / "figures" / f"{name}.png").touch()
    assert (
        next(
            kind
            for kind, suits in reproduce._special(tmp_path, result, {"picture_every": 0, "data": "mnist", **fields})
            if suits
        )
        == shows
    )


def test_runs_continue_and_a_part_is_not_the_whole(reproduce, workdir, monkeypatch, capsys):
    """The commands that are called, what comes after a failure, where the table goes, and what a signal ends."""
    called, page = [], workdir / "README.md"
    codes = iter((2, 0, 143, 0))
    for exit_code, names in ((2, ["dense", "vae"]), (143, ["deep", "vae"])):
        monkeypatch.setattr("sys.argv", ["reproduce.py", *names, "--workdir", str(workdir), "--data-dir", "somewhere"])
        with pytest.raises(SystemExit) as ended:
            reproduce.main(lambda arguments: called.append(arguments) or next(codes))
        assert ended.value.code == exit_code
    assert [arguments[2] for arguments in called] == ["dense", "vae", "deep"]
    assert called[0][-2:] == [f"--workdir={workdir / 'dense'}", f"--data-dir={Path('somewhere').absolute()}"]
    assert "`vae`" in page.read_text()
    assert f"table: {page}" in capsys.readouterr().out
