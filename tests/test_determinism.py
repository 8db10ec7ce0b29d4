"""The same seed gives the same bits, with a cold or a warm compilation cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from short_runs import NAMES

SCRIPT = Path(__file__).with_name("short_runs.py")


def short_runs(cache, file, names):
    """The digest of each experiment."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, SCRIPT, file, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    words = [line.split() for line in done.stdout.splitlines()]
    return {line[1]: line[2] for line in words if line[0] == "SHA-256"}


@pytest.mark.slow
@pytest.mark.parametrize("names", [["factor_vae"], NAMES], ids=("one", "all"))
def test_same_seed_same_bits_with_a_cold_and_a_warm_compilation_cache(names, tmp_path):
    cache = tmp_path / "compiled"
    digests = short_runs(cache, tmp_path / "cold.json", names)
    filled = set(cache.iterdir())
    assert len(filled) > 5 * len(names)
    assert short_runs(cache, tmp_path / "warm.json", names) == digests
    assert set(cache.iterdir()) == filled
    assert (tmp_path / "warm.json").read_bytes() == (tmp_path / "cold.json").read_bytes()
    assert list(digests) == names
    assert len(set(digests.values())) == len(digests)  # digests differ between experiments
