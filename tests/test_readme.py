"""What the README shows is run as it stands there."""

import dataclasses
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxae
from jaxae import data, experiments, run
from jaxae.commands._docstrings import docstrings
from jaxae.run import command_line
from jaxae.run import config as configs
from jaxae.training import records

README_FILE = Path(__file__).parents[1] / "README.md"
README = README_FILE.read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
(VARIANT,) = [code for code in PYTHON if "class Config" in code]


def test_new_variant_type_checks_and_trains_its_formula(tmp_path, monkeypatch):
    """It type-checks, it trains, and its loss is the formula that its docstring names."""
    (tmp_path / "regularized.py").write_text(VARIANT)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        README_FILE.with_name("pyproject.toml"),
        tmp_path / "regularized.py",
    ]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=README_FILE.parent, check=False)
    assert checked.returncode == 0, checked.stdout
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("regularized")
    norms = []
    for decay in (0.0, 0.5):
        settings = module.Config(
            epochs=2, hidden=(16,), code_weight=0.3, decay=decay, figures="none", workdir=str(tmp_path / f"{decay}")
        )
        workdir = run.train(settings, module.build, "regularized")
        model, test = jaxae.load(workdir, module), data.load("digits").test.x
        z, images = (np.asarray(found, np.float64) for found in (model.encode(test), model.reconstruct(test)))
        error = np.sum((images - test / 255) ** 2, axis=(1, 2, 3)).mean()
        penalty = np.sum(z**2, axis=1).mean() / 2
        last = records.read(workdir / "metrics.jsonl")[-1]
        found = [last[name] for name in ("error", "penalty", "loss")]
        assert found == pytest.approx([error, penalty, error + 0.3 * penalty], rel=1e-5)
        squares = {group: jax.tree.map(lambda a: np.sum(a**2), model.params[group]) for group in model.params}
        norms.append({group: sum(jax.tree.leaves(tree)) for group, tree in squares.items()})
    assert norms[1]["decoder"] < 0.8 * norms[0]["decoder"]  # of which it is a penalty too
    del sys.modules["regularized"]


COMMANDS = docstrings("jaxae.commands")


def options(source):
    """The flags that a script names."""
    return set(re.findall(r"\"(--[a-z-]+)\"", source))


PAGES = [
    README_FILE,
    README_FILE.with_name("experiments") / "README.md",
    README_FILE.with_name("jaxae") / "commands" / "README.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_flags_named_in_the_readme_exist(page):
    """Of an experiment, of a script, or of SLURM and gcloud."""
    text = page.read_text()
    modules = experiments.names()
    experiment_configs = [importlib.import_module(f"jaxae.experiments.{name}").Config for name in modules]
    known = {configs.flag(field.name) for kind in experiment_configs for field in dataclasses.fields(kind)}
    for script in (README_FILE.with_name("scripts")).glob("*.py"):
        known |= options(script.read_text())
    kinds = {name: importlib.import_module(f"jaxae.commands.{name}").Options for name in COMMANDS}
    known |= {configs.flag(field.name) for kind in kinds.values() for field in dataclasses.fields(kind)}
    known |= {"--help", "--tyro-print-completion", "--array", "--wrap", "--ntasks-per-node", "--worker", "--command"}
    known |= {configs.flag(name) for name in re.findall(r"^    (\w+): ", README, re.M)}  # of the new variant
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named
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
    (fitted, loaded) = [code for code in PYTHON if "jaxae.load" in code]
    for example, holds in (
        (fitted, "codes.shape == (4, len(x), 10) and images.shape == (4, 64, 28, 28, 1) and len(strangest) == 5"),
        (loaded, "images.shape == (64, 28, 28, 1) and codes.shape == (64, 2) and again.shape == images.shape"),
    ):
        subprocess.run([sys.executable, "-c", f"{example}\nassert {holds}"], check=True, cwd=tmp_path)


def test_table_has_experiments_once():
    rows = re.findall(r"^\| \[`(\w+)`\]", README, re.M)
    assert rows == sorted(set(rows) & set(experiments.names()))


def test_files_named_in_the_readme_exist():
    root = Path(__file__).parents[1]
    for name in re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"^(scripts/\w+)", README, re.M):
        assert (root / name).exists(), name
    there = {path.name for folder in ("jaxae", "scripts") for path in (root / folder).rglob("*.py")}
    assert set(re.findall(r"\b(\w+\.py)\b", README.split("## Layout")[1])) <= there


def test_layout_names_every_module_of_the_library():
    root = Path(__file__).parents[1]
    layout = README.split("## Layout")[1]
    modules = [path for path in (root / "jaxae").iterdir() if path.is_dir() or path.suffix == ".py"]
    for path in modules:
        if path.name in ("__init__.py", "__main__.py", "__pycache__"):
            continue
        assert (f"{path.name}/" if path.is_dir() else path.name) in layout, path
