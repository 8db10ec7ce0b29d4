import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import experiments

NAMES = [f"experiments.{module.name}" for module in pkgutil.iter_modules(experiments.__path__)]
FAMILIES = [f"experiments.{name}" for name in ("denoising_conv32", "sparse", "stacked", "strided", "vae")]
PHASES = {"experiments.stacked": {"epochs": 4, "greedy": 1}}  # every one of them


def agree(name, modes, rows, **fields):
    script = Path(__file__).with_name("on_devices.py")
    arguments = [sys.executable, script, name, modes, json.dumps(fields)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == rows
    for mode, devices, seeds, parameters, metrics in found:
        assert parameters < 1e-5, (mode, devices, seeds)
        assert metrics < 1e-5, (mode, devices, seeds)


def test_any_number_of_devices_one_result():
    """Up to 8 devices, pmap and jit, one seed and four: parameters and metrics agree to float rounding."""
    agree("toy", "some", 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_experiment_on_several_devices(name):
    agree(name, "fast", 1, **PHASES.get(name, {}))


def test_sequences_of_many_lengths_on_several_devices(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", *(rng.random((rng.integers(1, 9), 3), np.float32) for _ in range(240)))
    agree("experiments.sequence", "fast", 1, data=str(tmp_path / "s.npz"), latent=5, hidden=6)


def test_dropout_on_several_devices():
    agree("experiments.mirrored", "fast", 1, dropout=0.25)  # batch norm: in the toy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy", *NAMES])
def test_every_experiment_in_every_mode(name):
    agree(name, "all", 16, **PHASES.get(name, {}))
