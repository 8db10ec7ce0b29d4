"""What the README shows is run as it stands there."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import experiments
import jaxae
from jaxae import log, run

README_FILE = Path(__file__).parents[1] / "README.md"
README = README_FILE.read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


def test_the_new_variant(tmp_path, monkeypatch):
    (variant,) = [code for code in PYTHON if "class Config" in code]
    (tmp_path / "beta_vae.py").write_text(variant)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        README_FILE.with_name("pyproject.toml"),
        tmp_path / "beta_vae.py",
    ]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=README_FILE.parent, check=False)
    assert checked.returncode == 0, checked.stdout
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path)])
    module = importlib.import_module("experiments.beta_vae")
    config = module.Config(epochs=2, hidden=(16,), beta=7.0, workdir=str(tmp_path / "run"))
    workdir = run.train(config, module.build, "experiments.beta_vae")
    for line in log.read(workdir / "metrics.jsonl"):
        assert abs(line["loss"] - line["reconstruction"] - 7 * line["kl"]) < 1e-3
    assert jaxae.load(workdir).experiment.prior is not None
    del sys.modules["experiments.beta_vae"]


def test_the_python_example(tmp_path, monkeypatch):
    from experiments import vae

    monkeypatch.chdir(tmp_path)
    run.train(vae.Config(epochs=1, hidden=(16,), workdir="runs/quickstart"), vae.build, "experiments.vae")
    (example,) = [code for code in PYTHON if "jaxae.load" in code]
    program = (
        f"{example}\nassert images.shape == (64, 28, 28, 1) and codes.shape == (64, 2) and again.shape == images.shape"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_files_that_it_names_exist():
    root = Path(__file__).parents[1]
    for name in re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"^(scripts/\w+)", README, re.M):
        assert (root / name).exists(), name
    for name in re.findall(r"\b(\w+\.py)\b", README.split("## Layout")[1]):
        assert any((root / folder / name).exists() for folder in ("jaxae", "scripts")), name
