"""A new variant is one file: with the README's example in experiments/, the tests of every experiment pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import copy_repository
from test_readme import VARIANT

ROOT = Path(__file__).parents[1]
# Files with tests of every experiment, or of a file that lists experiments.
FILES = [
    f"tests/test_{name}.py" for name in ("determinism", "devices", "experiments", "imports", "readme", "reproduce")
]
# Such tests in other files.
SINGLE = [
    "tests/test_commands.py::test_bash_completes_commands_experiments_and_flags",
    "tests/test_commands.py::test_fish_completes_commands_experiments_and_flags",
    "tests/test_commands.py::test_help_names_every_command_and_experiment",
    "tests/test_commands.py::test_list_has_a_row_for_each_experiment",
    "tests/test_config.py::test_help_fits_its_width_and_the_terminal",
    "tests/test_config.py::test_help_states_meaning_and_default_of_every_field",
    "tests/test_docs.py::test_every_public_module_has_a_page",
    "tests/test_docs.py::test_site_has_no_broken_link",
    "tests/test_install.py::test_wheel_holds_the_library_and_no_top_level_experiments",
]


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository with the new variant, under git, since some tests list files with git."""
    copy_repository(tmp_path)
    (tmp_path / "experiments" / "regularized.py").write_text(VARIANT)
    for command in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def run_tests(folder, *arguments):
    """Run `FILES` and the tests in the arguments in the copy; return the names of those that passed. None may fail."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *FILES, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    return re.findall(r"^(tests/\S+) PASSED", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_new_variant_passes_the_tests_of_every_experiment(copy):
    passed = run_tests(copy, *SINGLE)
    assert sum("[regularized]" in name for name in passed) >= 3
    assert set(SINGLE) <= {name.split("[")[0] for name in passed}  # without parameters
