"""A wheel that works in an empty folder, and experiments started in all supported ways."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import jaxae
from conftest import copy_repository
from jaxae import experiments

ROOT = Path(__file__).parents[1]
SHORT = ("--epochs", "1", "--hidden", "8", "--figures", "none")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel built from the sdist of the repository."""
    folder = tmp_path_factory.mktemp("build")
    copy_repository(folder / "tree")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "tree"]
    subprocess.run(command, check=True, capture_output=True)
    assert len([*(folder / "dist").glob("*.tar.gz")]) == 1
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.mark.slow
def test_wheel_holds_the_library_and_no_top_level_experiments(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if not name.startswith("jaxae-")} == {"jaxae"}
    for path in (ROOT / "jaxae").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in names
    assert {f"jaxae/experiments/{name}.py" for name in experiments.names()} <= set(names)
    assert {"jaxae/py.typed", "jaxae/experiments/results.json", "jaxae/report/page/report.html"} <= set(names)


@pytest.mark.slow
def test_version_is_that_of_the_git_tag(tmp_path):
    copy_repository(tmp_path)

    def version():
        command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path / "dist", tmp_path]
        subprocess.run(command, check=True, capture_output=True)
        (found,) = (tmp_path / "dist").glob("*.whl")
        found.unlink()
        return found.name.split("-")[1]

    assert version() == "0.1.0"  # without git
    git = ("git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "first")):
        subprocess.run([*git, *command], check=True)
    assert ".dev" in version()  # a clone without tags
    subprocess.run([*git, "tag", "v1.2.3"], check=True)
    assert version() == "1.2.3"


def use(python, scripts, folder, env):
    """Use the library in an empty folder: command line, load, score, fit."""
    subprocess.run([scripts / "jaxae", "vae", *SHORT, "--workdir", "run"], cwd=folder, env=env, check=True)
    np.save(folder / "x.npy", np.random.default_rng(0).random((9, 28, 28)))
    subprocess.run([scripts / "jaxae", "score", "run", "x.npy", "--out", "scores.csv"], cwd=folder, env=env, check=True)
    assert len((folder / "scores.csv").read_text().splitlines()) == 10
    program = """
import jaxae, numpy
from jaxae.experiments import vae
assert not jaxae.__file__.startswith(REPOSITORY), jaxae.__file__
x = numpy.random.default_rng(0).random((50, 28, 28))
model = jaxae.fit(vae, x, epochs=1, batch_size=20, hidden=(8,), progress=False)
assert model.score(x).shape == (50,)
assert jaxae.load("run").encode(x).shape == (50, 2)
try:
    import experiments
except ModuleNotFoundError:
    pass
else:
    raise AssertionError(experiments.__file__)
""".replace("REPOSITORY", repr(str(ROOT)))
    subprocess.run([python, "-c", program], cwd=folder, env=env, check=True)


def test_installed_wheel_trains_from_the_command_line_and_from_python(wheel, tmp_path):
    """The wheel precedes the packages of this environment on the path."""
    site, folder = tmp_path / "site", tmp_path / "empty"
    folder.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    use(sys.executable, site / "bin", folder, {**os.environ, "PYTHONPATH": str(site)})


@pytest.mark.slow
def test_installed_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    scripts = tmp_path / "venv" / "bin"
    pinned = ["--constraint", ROOT / "scripts" / "constraints.txt"]
    subprocess.run([scripts / "python", "-m", "pip", "install", "--quiet", *pinned, wheel], check=True)
    use(
        scripts / "python", scripts, folder, {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    )


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(("-m", "jaxae", "vae"), marks=pytest.mark.slow, id="jaxae"),
        pytest.param(("-m", "experiments.vae"), marks=pytest.mark.slow, id="module"),
        pytest.param(("experiments/vae.py",), marks=pytest.mark.slow, id="path"),
    ],
)
def test_run_records_the_short_name_of_its_experiment_however_it_was_started(start, tmp_path):
    subprocess.run([sys.executable, *start, *SHORT, "--workdir", tmp_path / "run"], cwd=ROOT, check=True)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["experiment"] == "vae"
    assert saved["command"] == "jaxae vae --epochs 1 --hidden 8"
    assert jaxae.load(tmp_path / "run").shape == (28, 28, 1)


@pytest.mark.slow
def test_run_of_an_experiment_outside_the_package_records_the_name_of_its_file(tmp_path):
    """The package may have an experiment of that name; `load` then needs the module."""
    source = (ROOT / "experiments/vae.py").read_text()
    (tmp_path / "vae.py").write_text(source)
    subprocess.run([sys.executable, "vae.py", *SHORT, "--workdir", "run"], cwd=tmp_path, check=True)
    saved = json.loads((tmp_path / "run/config.json").read_text())
    assert saved["experiment"] == "vae.py"
    assert saved["command"] == "python vae.py --epochs 1 --hidden 8"
    with pytest.raises(jaxae.errors.InputError, match=r"vae.py, which is not in jaxae.experiments; pass its"):
        jaxae.load(tmp_path / "run")
    assert jaxae.load(tmp_path / "run", experiments.vae).shape == (28, 28, 1)
