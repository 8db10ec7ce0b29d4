"""The same seed gives the same bits, whatever was compiled before; and the figures of today are those of yesterday."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("short_runs.py")
GOLDEN = json.loads(SCRIPT.with_name("golden.json").read_text())


# One of each kind: nets, optimizers, phases, state that is not a parameter, adversaries, draws.
KINDS = [f"experiments.{name}" for name in ("convolutional", "factor_vae", "iwae", "sequence", "stacked", "vqvae")]


def short_runs(cache, file, names=()):
    """The digest of each experiment, and its figures."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, SCRIPT, file, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    words = [line.split() for line in done.stdout.splitlines()]
    return {line[1]: line[2] for line in words if line[0] == "SHA-256"}, json.loads(file.read_text())


@pytest.fixture(scope="module")
def cold(tmp_path_factory):
    """Of a process that has to compile everything; and what it has compiled."""
    cache, folder = (tmp_path_factory.mktemp(name) for name in ("compiled", "figures"))
    return *short_runs(cache, folder / "figures.json"), cache


@pytest.mark.parametrize("names", [KINDS, pytest.param(list(GOLDEN), marks=pytest.mark.slow)], ids=("kinds", "all"))
def test_same_seed_same_bits_with_a_cold_and_a_warm_compilation_cache(cold, names, tmp_path):
    digests, _, cache = cold
    filled = set(cache.iterdir())
    again, _ = short_runs(cache, tmp_path / "figures.json", names)
    assert len(filled) > 50
    assert set(cache.iterdir()) == filled
    assert again == {name: digests[name] for name in names}
    assert digests.keys() == GOLDEN.keys()
    assert len(set(digests.values())) == len(digests)  # every experiment has its own


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_steps(cold, name):
    """Losses and parameters after three steps are what they were: to rounding, since processors differ."""
    assert cold[1][name] == pytest.approx(GOLDEN[name], rel=1e-4), (
        f"{name} has moved. If that was meant, say why in the commit, and write down what is right from now on: "
        f"python tests/short_runs.py tests/golden.json"
    )
