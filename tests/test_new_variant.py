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
FILES = ("determinism", "devices", "experiments", "imports", "readme", "reproduce")


@pytest.fixture
def copy(tmp_path):
    """A copy of the repository with the new variant."""
    copy_repository(tmp_path)
    (tmp_path / "experiments" / "regularized.py").write_text(VARIANT)
    return tmp_path


def run_tests(folder, *options):
    """Run these test files in the copy, and return the names of the tests that passed. None may fail."""
    files = [f"tests/test_{name}.py" for name in FILES]
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options, *files]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    return re.findall(r"^tests/(\S+) PASSED", done.stdout, re.MULTILINE)


# Tests of files that list experiments.
LISTS = "golden_values_are or recorded_results or flags_named"


def test_new_variant_passes_the_tests_of_every_experiment(copy):
    passed = run_tests(copy, "-k", f"regularized or {LISTS}")
    assert sum("[regularized]" in name for name in passed) >= 3
    assert len(passed) > 30  # including the recorded results of every experiment


@pytest.mark.slow
def test_all_tests_over_experiments_pass_with_a_new_variant(copy):
    assert any("[regularized]" in name for name in run_tests(copy))
