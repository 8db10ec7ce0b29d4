"""The examples in `scripts/examples` run, and reach the results that their text states."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jaxae

EXAMPLES = Path(__file__).parents[1] / "scripts" / "examples"


def run(name, folder):
    """Output of an example that is run in this folder."""
    command = [sys.executable, EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(text, line):
    """Numbers in the only line that starts with this text."""
    (found,) = re.findall(rf"^{re.escape(line)}(.*)$", text, re.MULTILINE)
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", found)]


def assert_draws(path):
    """Assert that the picture has light and dark pixels."""
    pixels = np.asarray(Image.open(path).convert("L"))
    assert pixels.std() > 20


@pytest.mark.slow
def test_own_data_becomes_codes_samples_scores_and_a_run(tmp_path):
    printed = run("own_data", tmp_path)
    first, last = numbers(printed, "test loss after the first and the last epoch:")
    assert last < first - 30
    digits, negatives = numbers(printed, "mean score of the digits")
    assert negatives > digits + 100
    assert "codes (1797, 8) reconstructions (10, 8, 8, 1) samples (10, 8, 8, 1)" in printed
    assert "training images (1618, 8, 8, 1) uint8 classes ('0', '1'," in printed
    assert_draws(tmp_path / "own_data.png")
    (loss,) = numbers(printed, "test loss of the loaded model:")
    data = jaxae.data.load(str(tmp_path / "pictures"))
    assert jaxae.load(tmp_path / "runs/pictures").evaluate(data.test.x)["loss"] == pytest.approx(loss, abs=1e-4)


@pytest.mark.slow
def test_sparse_autoencoder_finds_the_directions_of_the_activations(tmp_path):
    printed = run("sparse", tmp_path)
    error, active = numbers(printed, "fraction of variance unexplained")
    assert error < 0.15
    assert active == 3
    (mcc,) = numbers(printed, "mean |cosine| of matched directions (MCC)")
    assert mcc > 0.85
    assert jaxae.load(tmp_path / "runs/sparse").code == (64,)


@pytest.mark.slow
def test_new_variant_decorrelates_codes_and_matches_its_formula(tmp_path):
    printed = run("new_variant", tmp_path)
    correlated, error = numbers(printed, "without the penalty: mean |correlation|")
    decorrelated, penalized_error = numbers(printed, "with the penalty: mean |correlation|")
    assert decorrelated < 0.6 * correlated
    assert penalized_error < 1.1 * error
    loss, by_numpy, penalty = numbers(printed, "loss")
    assert loss == pytest.approx(by_numpy, rel=1e-4)
    assert 0 < penalty < loss
    epoch, reached = numbers(printed, "stopped after epoch")
    assert epoch < 100
    assert reached < 1.2 * error
    assert "its codes (359, 8)" in printed
    assert_draws(tmp_path / "new_variant.png")


@pytest.mark.slow
def test_nets_of_other_libraries_train_load_and_have_seeds(tmp_path):
    printed = run("other_nets", tmp_path)
    assert "params {'decoder': ['0.0', '0.1', '1.0', '1.1'], 'encoder': ['code.bias', 'code.kernel'," in printed
    assert "batch_stats {'encoder': ['norm.mean', 'norm.var']}" in printed
    *first, one, two = numbers(printed, "test loss of two seeds after the first and the last epoch:")
    assert max(one, two) < 0.9 * min(first)
    assert one != two
    (alone,) = numbers(printed, "test loss of seed 1 alone:")
    assert alone == pytest.approx(two, rel=1e-2)
    assert "equal codes of the loaded run: True" in printed
