"""What the README shows is run as it stands there."""

import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import experiments
import jaxae
from jaxae import data, log, run

README_FILE = Path(__file__).parents[1] / "README.md"
README = README_FILE.read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_new_variant(tmp_path, monkeypatch):
    (variant,) = [code for code in PYTHON if "class Config" in code]
    (tmp_path / "normal_vae.py").write_text(variant)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        README_FILE.with_name("pyproject.toml"),
        tmp_path / "normal_vae.py",
    ]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=README_FILE.parent, check=False)
    assert checked.returncode == 0, checked.stdout
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    module = importlib.import_module("experiments.normal_vae")
    config = module.Config(epochs=2, hidden=(16,), scale=0.5, likelihood=20, workdir=str(tmp_path / "run"))
    workdir = run.train(config, module.build, "experiments.normal_vae")
    last = log.read(workdir / "metrics.jsonl")[-1]
    constant = 784 * (0.5 * np.log(2 * np.pi) + np.log(0.5))  # -log N of an image that is met exactly
    model, test = jaxae.load(workdir), data.load("digits").test.x
    error = np.sum((np.asarray(model.reconstruct(test)) - test / 255) ** 2, axis=(1, 2, 3)).mean() / 0.5**2 / 2
    assert 0.9 * error < last["reconstruction"] - constant < 1.25 * error  # which is of draws, not of the mean
    assert abs(last["loss"] - last["reconstruction"] - last["kl"]) < 1e-3
    found = json.loads((workdir / "result.json").read_text())["likelihood"]
    assert -last["loss"] - 1 < found["log_likelihood"] < -constant
    assert model.experiment.prior is not None
    del sys.modules["experiments.normal_vae"]


def test_the_python_example(tmp_path, monkeypatch):
    from experiments import vae

    monkeypatch.chdir(tmp_path)
    run.train(vae.Config(epochs=1, hidden=(16,), workdir="runs/quickstart"), vae.build, "experiments.vae")
    (example,) = [code for code in PYTHON if "jaxae.load" in code]
    program = (
        f"{example}\nassert images.shape == (64, 28, 28, 1) and codes.shape == (64, 2) and again.shape == images.shape"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.parametrize("page", [README_FILE, README_FILE.with_name("experiments") / "README.md"])
def test_the_table_has_each_experiment_once(page):
    rows = re.findall(r"^\| \[`(\w+)`\]", page.read_text(), re.M)
    assert rows == sorted(module.name for module in pkgutil.iter_modules(experiments.__path__))


def test_files_that_it_names_exist():
    root = Path(__file__).parents[1]
    for name in re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"^(scripts/\w+)", README, re.M):
        assert (root / name).exists(), name
    for name in re.findall(r"\b(\w+\.py)\b", README.split("## Layout")[1]):
        assert any((root / folder / name).exists() for folder in ("jaxae", "scripts")), name
