"""The tables of experiments/README.md, from made-up runs."""

import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import script
from jaxae.commands._docstrings import docstrings, fields
from jaxae.experiments import deep, sequence, stacked, vae
from jaxae.run import command_line, config
from jaxae.training import records

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "experiments"
PAGE = (FOLDER / "README.md").read_text()
RESULTS = json.loads((FOLDER / "results.json").read_text())
SAID = {name: fields(text) for name, text in docstrings("jaxae.experiments").items()}


@pytest.fixture(scope="module")
def reproduce():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")  # scripts import each other
        yield script("reproduce")


@pytest.fixture(scope="module")
def tables(reproduce):
    return reproduce.tables


def sections(page):
    """Heading -> name in the first cell of a row -> column -> cell, for the table below each heading."""
    found = {}
    for section in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]:
        lines = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)
        head, *rows = [line.split(" | ") for line in lines] or [[]]
        names = [re.sub(r"^\[?`(\w+)`.*", r"\1", row[0]) for row in rows]
        rows = [dict(zip(head, row, strict=True)) for row in rows]
        found[section.splitlines()[0]] = dict(zip(names, rows, strict=True))
    return found


def models(page):
    """Experiment -> column -> cell, for the tables of published results; `group` is the heading."""
    found = sections(page).items()
    rows = [(name, {**row, "group": heading}) for heading, rows in found for name, row in rows.items()]
    return {name: row for name, row in rows if "published" in row}


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e-\d+)?", text)]


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
    result = {"metrics": {"loss": 150.0}, "plane": plane}
    result["reconstruction_quality"] = {"mse": 0.04, "shift_mse": 0.039, "ssim": 0.4}
    result["likelihood"] = likelihood
    write(path / "vae", vae.Config(), result, (*figures, "manifold"))
    worse = {**plane, "unequal_areas": 0.9, "holes": 0.01}
    write(path / "mirrored", vae.Config(), {"metrics": {"loss": 0.04}, "plane": worse}, figures)
    return path


def test_command_is_read_from_the_docstring(reproduce):
    assert reproduce.command("dense") == ["--data", "mnist", "--seeds", "3"]


@pytest.mark.parametrize("name", RESULTS)
def test_recorded_results_are_of_the_experiments_command(reproduce, name):
    """Entries are optional, and each belongs to an experiment."""
    found, module = RESULTS[name], import_module(f"jaxae.experiments.{name}")
    words = shlex.split(found["command"])
    assert words == ["jaxae", name, *reproduce.command(name)]
    config = command_line.parse(module.Config, "", words[2:])
    assert [found[key] for key in ("data", "epochs", "seeds")] == [config.data, config.epochs, config.seeds]
    assert "loss" in found["metrics"]
    for file in reproduce.tables.files(name, found["pictures"]).values():
        assert (FOLDER / file).exists()


def test_readme_of_the_experiments_has_the_recorded_results(tables):
    assert list(RESULTS) == sorted(RESULTS)
    assert tables.page(RESULTS, docstrings("jaxae.experiments")) == PAGE


def test_table_has_a_dash_for_a_measure_that_an_entry_lacks(tables):
    scores = {**RESULTS["tcvae"]["disentanglement"], "mig": 0.25, "active_dimensions": {"mean": 7.333, "std": 0.58}}
    results = {name: {**RESULTS["tcvae"], "disentanglement": scores} for name in ("beta_vae", "tcvae")}
    results["beta_vae"]["disentanglement"] = {name: scores[name] for name in scores if name != "active_dimensions"}
    rows = sections(tables.page(results, docstrings("jaxae.experiments")))["Factors of variation"]
    assert [row["mig"] for row in rows.values()] == ["0.25", "0.25"]
    assert [row["active_dimensions"] for row in rows.values()] == ["-", "7.333 ± 0.58"]


def test_every_recorded_experiment_is_in_the_group_of_its_docstring(tables):
    rows = models(PAGE)
    assert len(re.findall(r"^\| \[`", PAGE, re.MULTILINE)) == len(rows)  # exactly once
    assert rows.keys() == RESULTS.keys()
    for name, row in rows.items():
        assert row["group"].lower() == SAID[name].get("Group", "other").lower()
    order = [group.lower() for group in tables.GROUPS]
    shown = [heading.lower() for heading in sections(PAGE) if heading.lower() in order]
    assert shown == [group for group in order if group in shown]


def test_experiment_without_a_known_group_is_listed_under_other(tables):
    results = dict.fromkeys(("unnamed", "unknown", "iwae", "vae"))
    said = {"unnamed": {}, "unknown": {"Group": "diffusion"}, "iwae": SAID["iwae"], "vae": SAID["vae"]}
    found = {group: names for group, names in tables.groups(results, said).items() if names}
    assert found == {"variational": ["iwae", "vae"], "other": ["unnamed", "unknown"]}
    assert list(tables.GROUPS)[-1] == "other"
    written = {said["Group"] for said in SAID.values() if "Group" in said}
    assert written <= tables.GROUPS.keys()


def test_published_and_measured_results_are_side_by_side():
    rows = models(PAGE)
    for name, published, measured in (
        ("binary", 104, "102.3 ± 0.16 nats"),
        ("iwae", -85.54, "-87.12 nats"),
        ("simple", 7.30, "7.379 ± 0.051"),
        ("tcvae", 0.5, "MIG 0.2758 ± 0.055"),
    ):
        assert published in numbers(rows[name]["published"])
        assert measured in rows[name]["measured"]
    assert "not reached" in rows["convolutional"]["measured"]
    assert rows["iwae"]["time"] == RESULTS["iwae"]["time"]


@pytest.mark.parametrize("name", [name for name in RESULTS if "Measured" in SAID[name]])
def test_docstring_has_the_recorded_results(tables, name):
    """The page quotes the docstring only if its numbers are recorded; the docstring must also have the recorded
    time."""
    words = SAID[name]["Measured"].replace("+-", "±")
    shown = tables.measured({**RESULTS[name], "reached": None}, words)
    assert words.startswith(shown)
    assert numbers(shown)
    assert RESULTS[name]["time"] in words


def test_measured_results_that_are_not_recorded_are_not_shown(tables):
    found = {"metrics": {"loss": 0.25, "code": 3.0, "kl": 1.5}, "expected": {}, "reached": None}
    assert tables.measured(found, "test BCE 0.25 nats (seed 0); 9 s.") == "test BCE 0.25 nats"
    for text in ("test BCE 0.24 nats (seed 0); 9 s.", "test BCE 0.25 +- 0.1 nats over three seeds", "good", ""):
        assert tables.measured(found, text) == "loss 0.25"
    found |= {"expected": {"loss": 0.3, "code": [1.0, 2.0]}, "reached": False}
    shown = tables.measured(found, "")
    assert numbers(shown) == [0.25, 3, 0.3, 1, 2]
    assert "not reached" in shown


def test_handwritten_evaluations_agree_with_the_recorded_results():
    _, rows = sections(PAGE)["Importance weighted bound, K = 1 and 5"].items()
    row = list(rows[1].values())
    found = RESULTS["iwae"]["likelihood"]
    assert numbers(row[1])[0] in numbers(SAID["iwae"]["Published"])
    assert numbers(row[2])[0] == found["log_likelihood"]
    assert numbers(row[4])[0] == -RESULTS["iwae"]["metrics"]["loss"]
    assert [numbers(cell)[0] for cell in row[5:]] == [round(found["ess"]), found["active_units"]]


def test_links_of_the_page_lead_to_files_and_headings():
    links = set(re.findall(r"\]\(([^)]+)\)", PAGE))
    headings = {f"#{heading.lower().replace(' ', '-')}" for heading in sections(PAGE)}
    assert {link for link in links if link.startswith("#")} <= headings
    for link in links - headings:
        assert (FOLDER / link).exists(), link


def test_finished_runs_become_entries_and_tables(reproduce, workdir, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"wae": RESULTS["wae"], "vae": RESULTS["vae"]}))
    reproduce.record(workdir, tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["deep", "mirrored", "sequence", "stacked", "vae", "wae"]
    assert results["wae"] == RESULTS["wae"]  # has no run in the workdir
    assert results["deep"]["metrics"] == {"code": 3.0, "loss": {"mean": 0.2, "std": pytest.approx(0.1414, rel=1e-3)}}
    assert results["deep"]["device"] == "2 CPU cores"
    assert "greedy" in results["stacked"]
    assert results["vae"]["plane"]["holes"] == 0.02
    page = (tmp_path / "README.md").read_text()
    assert "on 2 CPU cores" in " ".join(page.split())
    rows, measures = models(page), sections(page)
    assert rows.keys() == results.keys()
    assert numbers(rows["deep"]["measured"]) == [0.2, 0.14, 3, 0.3, 1, 2]  # metrics, bound and range
    assert numbers(rows["deep"]["epochs × seeds"]) == [100, 2]  # noqa: RUF001
    assert (rows["deep"]["time"], rows["sequence"]["time"]) == ("90 s", "10 min")
    assert numbers(rows["vae"]["measured"]) == [150]
    assert list(measures["Reconstruction quality"]["vae"].values())[1:] == ["0.04", "0.039", "0.4"]
    assert measures["Likelihoods"]["vae"]["log_likelihood"] == "-141 ± 1.4"
    assert "Codebooks" not in measures
    assert list(measures["Defects of a 2-D latent space"]["vae"].values())[1:] == ["0.5", "0.1", "0.02", "3"]
    assert "better than `mirrored` on every metric except asymmetry, holes, roughness." in page
    assert "(128-64-32-64-128)" in page
    (layers,) = measures["Layer by layer, or end to end"].values()
    assert numbers(" ".join(layers.values())) == [0.01667, 0.01, 0.2, 0.14]  # 1 / 60 after three layers of 20 epochs
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
def test_special_selects_the_most_characteristic_figure(reproduce, tmp_path, have, fields, result, shows):
    (tmp_path / "figures").mkdir()
    for name in have:
        (tmp_path / "figures" / f"{name}.png").touch()
    assert reproduce.special(tmp_path, result, {"picture_every": 0, **fields}) == shows


def test_script_continues_after_a_failed_run_and_ends_after_a_signal(reproduce, workdir, tmp_path, monkeypatch, capsys):
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
