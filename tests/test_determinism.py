"""The same seed gives the same bits, whatever was compiled before; and the figures of today are those of yesterday."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("short_runs.py")
GOLDEN = json.loads(SCRIPT.with_name("golden.json").read_text())


def short_runs(cache, file):
    """The digest of each experiment, and its figures."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, SCRIPT, file]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    words = [line.split() for line in done.stdout.splitlines()]
    return {line[1]: line[2] for line in words if line[0] == "SHA-256"}, json.loads(file.read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of two processes: the first has to compile everything, the second finds it compiled."""
    cache, folder = (tmp_path_factory.mktemp(name) for name in ("compiled", "figures"))
    first = short_runs(cache, folder / "first.json")
    filled = set(cache.iterdir())
    second = short_runs(cache, folder / "second.json")
    assert len(filled) > 50
    assert set(cache.iterdir()) == filled
    return first, second


def test_same_seed_same_bits_with_a_cold_and_a_warm_compilation_cache(runs):
    (first, _), (second, _) = runs
    assert first == second
    assert first.keys() == GOLDEN.keys()
    assert len(set(first.values())) == len(first)  # every experiment has its own


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_steps(runs, name):
    """Losses and parameters after three steps are what they were: to rounding, since processors differ."""
    assert runs[0][1][name] == pytest.approx(GOLDEN[name], rel=1e-4), (
        f"{name} has moved. If that was meant, say why in the commit, and write down what is right from now on: "
        f"python tests/short_runs.py tests/golden.json"
    )
