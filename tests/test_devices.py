import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import experiments

NAMES = [f"experiments.{module.name}" for module in pkgutil.iter_modules(experiments.__path__)]


@pytest.mark.parametrize("name", [*NAMES, "toy"])
def test_any_number_of_devices_one_result(name):
    """1, 2, 4, 8 devices, pmap and jit, one seed and four: parameters and metrics agree to float rounding."""
    script = Path(__file__).with_name("on_devices.py")
    done = subprocess.run([sys.executable, script, name], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 16
    for mode, devices, seeds, parameters, metrics in rows:
        assert parameters < 1e-5, (mode, devices, seeds)
        assert metrics < 1e-5, (mode, devices, seeds)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_says_source_command_and_measured_figure(name):
    text = importlib.import_module(name).__doc__
    for word in ("Source:", "Command: python -m", "Measured:"):
        assert word in text
