"""The READMEs: their examples run, and their flags, files, links and results exist."""

import dataclasses
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxae
from conftest import call, script
from jaxae import data, experiments, run
from jaxae.commands._docstrings import docstrings, fields
from jaxae.report import html
from jaxae.run import command_line
from jaxae.run import config as configs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDERS = ("experiments", "jaxae", "jaxae/*", "jaxae/report/*", "jaxae/variants/*", "scripts", "tests")
PAGES = [ROOT / "README.md", *(page for name in FOLDERS for page in sorted(ROOT.glob(f"{name}/README.md")))]
PAGES.remove(ROOT / "jaxae" / "experiments" / "README.md")  # a link
EXAMPLES = [code for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
(VARIANT,) = [code for code in EXAMPLES if "class Config" in code]


@pytest.mark.slow
def test_new_variant_type_checks(tmp_path):
    (tmp_path / "regularized.py").write_text(VARIANT)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", tmp_path / "regularized.py"]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert checked.returncode == 0, checked.stdout


def test_new_variant_trains_its_formula(tmp_path, monkeypatch):
    (tmp_path / "regularized.py").write_text(VARIANT)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("regularized")
    train = data.load("digits").train.x
    model = jaxae.fit(module, train, test=train[:50], epochs=2, code_weight=0.3, progress=False)
    z, images = (np.asarray(found, np.float64) for found in (model.encode(train[:50]), model.reconstruct(train[:50])))
    error = np.sum((images - train[:50] / 255) ** 2, axis=(1, 2, 3)).mean()
    penalty = np.sum(z**2, axis=1).mean() / 2
    last = model.history[-1]
    found = [last[name] for name in ("error", "penalty", "loss")]
    assert found == pytest.approx([error, penalty, error + 0.3 * penalty], rel=1e-5)
    del sys.modules["regularized"]


tables = script("tables")
COMMANDS = docstrings("jaxae.commands")


def options(source):
    """The flags of a script."""
    return set(re.findall(r"\"(--[a-z-]+)\"", source))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_named_in_the_readme_exist(page):
    """Each is a flag of an experiment, of a script, or of SLURM, gcloud, pip and hf."""
    text = page.read_text()
    modules = experiments.names()
    experiment_configs = [importlib.import_module(f"jaxae.experiments.{name}").Config for name in modules]
    known = {configs.flag(field.name) for kind in experiment_configs for field in dataclasses.fields(kind)}
    for path in (ROOT / "scripts").glob("*.py"):
        known |= options(path.read_text())
    kinds = {name: importlib.import_module(f"jaxae.commands.{name}").Options for name in COMMANDS}
    known |= {configs.flag(field.name) for kind in kinds.values() for field in dataclasses.fields(kind)}
    known |= {
        "--help",
        "--version",
        "--tyro-print-completion",
        "--array",
        "--wrap",
        "--ntasks-per-node",
        "--worker",
        "--command",
        "--no-deps",
        "--local-dir",
        "--wheel-dir",
        "--constraint",
    }
    known |= {configs.flag(name) for name in re.findall(r"^    (\w+): ", README, re.M)}  # a flag of the new variant
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named <= known
    for name, line in re.findall(rf"jaxae ({'|'.join(modules)})\b([^`#\"\n]*)", text):
        if name in modules and "--help" not in line:
            command_line.parse(importlib.import_module(f"jaxae.experiments.{name}").Config, "", shlex.split(line))
    for name, line in re.findall(rf"jaxae ({'|'.join(kinds)})\b([^`#\"\n]*)", text):
        if line.strip() and name != "sweep":
            command_line.parse(kinds[name], "", shlex.split(line))


def test_python_examples_run(tmp_path, monkeypatch):
    from jaxae.experiments import vae

    monkeypatch.chdir(tmp_path)
    fields = {"epochs": 1, "hidden": (16,), "figures": "none", "workdir": "runs/quickstart"}
    run.train(vae.Config(**fields), vae.build, "vae")
    (fitted, loaded) = [code for code in EXAMPLES if "jaxae.load" in code]
    for example, holds in (
        (fitted, "codes.shape == (4, len(x), 10) and images.shape == (4, 64, 28, 28, 1) and len(strangest) == 5"),
        (loaded, "images.shape == (64, 28, 28, 1) and codes.shape == (64, 2) and again.shape == images.shape"),
    ):
        subprocess.run([sys.executable, "-c", f"{example}\nassert {holds}"], check=True, cwd=tmp_path)
    # Run the commands of commands/README.md on runs/mine, saved by the example above, with data files of their names.
    x = data.load("digits").test.x[:3]
    np.save("new.npy", x)
    Path("photos").mkdir()
    Image.fromarray(x[0, ..., 0]).save("photos/one.png")
    lines = re.findall(r"^jaxae (.* runs/mine .*)", (ROOT / "jaxae/commands/README.md").read_text(), re.M)
    assert [line.split()[0] for line in lines] == ["encode", "score", "reconstruct", "sample", "share"]
    for name, *arguments in (shlex.split(line, comments=True) for line in lines):
        assert call(name, *arguments) == 0
        assert Path(arguments[arguments.index("--out") + 1 if "--out" in arguments else 1]).exists()


@pytest.mark.slow
def test_commands_on_a_table_sample_by_condition_impute_and_score(tmp_path, monkeypatch, capsys):
    """The commands, with fewer epochs, on a table with a missing cell."""
    monkeypatch.chdir(tmp_path)
    rows = [f"{'trout' if i % 2 else 'perch'},{i / 2},{'red' if i % 3 else 'grey'},{i / 7},{-i / 3}" for i in range(40)]
    rows[7] = "trout,3.5,red,,-2.5"
    Path("fish.csv").write_text("\n".join(["kind,length,colour,weight,depth", *rows]) + "\n")
    lines = re.findall(r"^jaxae (.*(?:fish.csv|runs/fish).*)", README, re.M)
    assert [line.split()[0] for line in lines] == ["cvae", "sample", "miwae", "impute", "outliers", "score"]
    for name, *arguments in (shlex.split(line, comments=True) for line in lines):
        if name in experiments.names():
            module = importlib.import_module(f"jaxae.experiments.{name}")
            with pytest.raises(SystemExit) as ended:
                run.main(
                    module.Config, module.build, [*arguments, "--epochs", "1", "--batch-size", "8", "--figures", "none"]
                )
            assert ended.value.code == 0, capsys.readouterr().err
        else:
            assert call(name, *arguments) == 0, capsys.readouterr().err
    head, *samples = Path("trout.csv").read_text().splitlines()
    assert head == "name,kind,length,colour,weight,depth"
    assert {tuple(row.split(",")[1:4]) for row in samples} == {("trout", "12.5", "red")}
    filled = Path("filled.csv").read_text().splitlines()[1:]
    assert [row for row, before in zip(filled, rows, strict=True) if row != before] == [filled[7]]
    assert re.fullmatch(r"trout,3\.5,red,-?[\d.]+,-2\.5", filled[7])
    head, *scores = Path("scores.csv").read_text().splitlines()
    assert len(scores) == 40
    assert all(0 < float(row.split(",")[-1]) <= 1 for row in scores)  # the p-values


def test_results_in_the_table_are_those_recorded():
    """The first measured number, with its standard deviation, is in results.json; the published one is in the
    docstring."""
    results = json.loads((ROOT / "experiments" / "results.json").read_text())
    rows = re.findall(r"^\| \[`(\w+)`\].*\| (.*) \| (.*) \|$", README, re.M)
    assert len(rows) == 7
    for name, published, measured in rows:
        source = fields(importlib.import_module(f"jaxae.experiments.{name}").__doc__)["Published"]
        assert set(re.findall(r"[\d.,]*\d", published)) <= set(re.findall(r"[\d.,]*\d", source)), name
        groups = [results[name][group] for group in ("metrics", *tables.TABLES) if group in results[name]]
        recorded = [html.figure(value) for group in groups for value in group.values()]
        assert re.search(r"-?[\d.]+( ± [\d.e-]+)?", measured)[0] in recorded, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_named_in_the_readme_exist(page):
    text = page.read_text()
    for name in re.findall(r"\]\(([\w./-]+)\)", text) + re.findall(r"^(scripts/\w+)", text, re.M):
        assert (page.parent / name).exists(), name
    there = {path.name for name in FOLDERS for path in ROOT.glob(f"{name}/*.py")}
    assert set(re.findall(r"\b(\w+\.py)\b", text)) <= there | {"regularized.py"}  # the new variant


def test_layout_names_every_folder_of_the_library():
    layout = README.split("## Layout")[1]
    for path in (ROOT / "jaxae").iterdir():
        if path.name in ("__init__.py", "__main__.py", "__pycache__", "experiments", "README.md", "py.typed"):
            continue
        assert (f"{path.name}/" if path.is_dir() else path.name) in layout, path


def test_readme_has_at_most_120_lines():
    assert len(README.splitlines()) <= 120
