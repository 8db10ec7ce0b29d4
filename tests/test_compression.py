"""scripts/compress.py: closed forms, and a small complete run."""

import importlib.util
import json
import shutil
import sys
from math import exp, log
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from jaxae import data
from jaxae.errors import InputError

SCRIPT = Path(__file__).parents[1] / "scripts" / "compress.py"
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compress", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["compress"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compress"]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def finished(script, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("compression") / "run"
    arguments = ["--data", "digits", "--latents", "2", "--epochs", "1", "--figures", "none"]
    arguments += ["--workdir", str(workdir)]
    return arguments, workdir, script.compare(arguments)


def training_error(x, y):
    """Mean squared error of unclipped reconstructions."""
    return np.mean((x / 255 - y) ** 2)


def test_error_of_principal_components_is_the_sum_of_the_remaining_eigenvalues(script, digits):
    x = digits.train.x
    flat = x.reshape(len(x), -1) / 255
    eigenvalues = np.linalg.eigvalsh(np.cov(flat, rowvar=False, bias=True))[::-1]
    pca = script.components(x, 16)
    for size in (1, 5, 16):
        coder = script.Principal(pca, size, digits.shape)
        z = coder.encode(x)
        assert z.shape == (len(x), size)
        np.testing.assert_allclose(training_error(x, coder.decode(z)), eigenvalues[size:].sum() / 784, rtol=1e-9)


@pytest.mark.slow
def test_error_of_a_linear_autoencoder_is_at_least_that_of_principal_components(script, digits, finished):
    _, workdir, _ = finished
    x = digits.train.x
    model = jaxae.load(workdir / "linear-2", script)
    best = script.Principal(script.components(x, 2), 2, digits.shape)
    variables = {"params": model.params, **model.extra}
    _, linear = model.experiment.model.apply(variables, jnp.asarray(x.astype(np.float32) / 255))
    assert training_error(x, np.asarray(linear)) >= training_error(x, best.decode(best.encode(x)))


@pytest.mark.slow
def test_linear_autoencoder_has_a_linear_decoder(digits, script, finished):
    model = jaxae.load(finished[1] / "linear-2", script)
    z = rng.standard_normal((2, 2)).astype(np.float32)
    decoder = model.experiment.model.bind({"params": model.params}).decoder
    a, b, middle, zero = decoder(jnp.stack([*z, z.sum(0), jnp.zeros(2)]))
    np.testing.assert_allclose(a + b, middle + zero, atol=1e-5)


def test_quantization_has_a_mean_squared_error_of_a_twelfth_of_the_squared_step(script):
    low, high = np.array([-1.0, 0.0, 3.0]), np.array([2.0, 1e-3, 30.0])
    z = rng.uniform(low, high, (200_000, 3))
    back = script.dequantise(script.quantise(z, low, high), low, high)
    step = (high - low) / 255
    assert (np.abs(back - z) <= step / 2 * (1 + 1e-9)).all()
    # relative standard error of the mean of 200,000 squared uniform numbers: sqrt(4 / 5 / 200,000) = 0.002
    np.testing.assert_allclose(np.mean((back - z) ** 2, axis=0), step**2 / 12, rtol=0.01)


def test_quantization_is_exact_on_its_grid_clips_and_supports_constants(script):
    low, high = np.array([-1.0, 2.0]), np.array([1.0, 2.0])
    grid = np.stack([np.linspace(-1, 1, 256), np.full(256, 2.0)], axis=1)
    q = script.quantise(grid, low, high)
    np.testing.assert_array_equal(q[:, 0], np.arange(256))
    np.testing.assert_allclose(script.dequantise(q, low, high), grid, atol=1e-15)
    outside = script.quantise(np.array([[-7.0, 1.0], [7.0, 9.0]]), low, high)
    np.testing.assert_allclose(script.dequantise(outside, low, high), [[-1, 2], [1, 2]])


def test_entropy_against_a_calculation_by_hand(script):
    numbers = np.arange(256, dtype=np.uint8)
    columns = [numbers, numbers % 2, np.zeros_like(numbers), numbers // 64]
    assert script.entropy(np.stack(columns, axis=1)) == pytest.approx((8 + 1 + 0 + 2) / 8)


@pytest.mark.parametrize("shape", [(7, 28, 28, 1), (5, 16, 8, 3), (1, 3, 70, 1), (12, 100, 5, 3)])
@pytest.mark.parametrize("together", [1, 4, 100])
def test_lossless_file_restores_the_images(script, shape, together):
    x = rng.integers(0, 256, shape, dtype=np.uint8)
    size, back = script.store(x, together, format="PNG")
    np.testing.assert_array_equal(back, x)
    assert size > x[0].size  # noise cannot be compressed


def test_images_in_a_mosaic_start_at_multiples_of_a_block(script):
    x = rng.integers(0, 256, (6, 28, 12, 1), dtype=np.uint8)
    mosaic = script.tile(x)
    assert mosaic.shape == (64, 64, 1)  # four columns of 16 pixels, two rows of 32
    np.testing.assert_array_equal(mosaic[32:60, 16:28], x[5])


@pytest.mark.parametrize("colours", [1, 3])
def test_higher_jpeg_quality_has_more_bytes_and_less_error(script, digits, colours):
    x = np.repeat(digits.test.x[:60], colours, axis=3)
    points = [script.jpeg(x, quality) for quality in (5, 20, 50, 90)]
    for name, order in (("shared", 1), ("single", 1), ("error", -1)):
        assert (order * np.diff([getattr(point, name) for point in points]) > 0).all()
    assert all(point.single > point.shared + 100 for point in points)  # one header per image


def test_images_in_a_mosaic_decode_as_single_files_do(script, digits):
    how = {"format": "JPEG", "quality": 30, "subsampling": 0, "optimize": True}
    (_, together), (_, alone) = (script.store(digits.test.x[:30], n, **how) for n in (30, 1))
    np.testing.assert_array_equal(together, alone)


def test_interpolation_between_rates_is_geometric(script):
    sizes, errors = [10.0, 20.0, 40.0], [0.04, 0.01, 0.001]
    assert script.between(15, sizes, errors) == pytest.approx(0.02)  # the geometric mean
    assert script.between(25, sizes, errors) == pytest.approx(exp(0.75 * log(0.01) + 0.25 * log(0.001)))
    assert [script.between(size, sizes, errors) for size in (10, 40)] == pytest.approx([0.04, 0.001])
    assert script.between(9.9, sizes, errors) is None
    assert script.between(40.1, sizes, errors) is None


@pytest.mark.slow
def test_repeated_run_writes_the_same_table(script, finished):
    arguments, workdir, text = finished
    file = workdir / "compression.md"
    assert file.read_text() == text
    assert (workdir / "compression.png").read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in workdir.iterdir()} == {"compression.md", "compression.png", "dense-2", "linear-2"}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 2 |")]
    assert [row[1] for row in rows] == ["dense", "linear", "PCA", "JPEG, mosaic"]
    assert rows[3][2] == "rate not reached"
    assert sum(row[2].startswith("**") for row in rows) == 1
    assert all(0 < float(row[5]) <= 2 for row in rows[:3])
    file.unlink()
    assert script.compare(arguments) == text
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--latents", "0"], "--latents 0"),
        (["--latents", "785"], "from 1 to 784"),
        (["--latents", "four"], "invalid int value"),
        (["--epochs", "0"], "--epochs 0"),
        (["--nonsense", "1"], "--nonsense"),
        (["--data", "/nowhere.npy"], "/nowhere.npy"),
        (["--data", "sprites/none"], "--data sprites/none"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(script, monkeypatch, tmp_path, capsys, arguments, says):
    monkeypatch.setattr(sys, "argv", ["compress.py", "--workdir", str(tmp_path / "run"), *arguments])
    with pytest.raises(SystemExit) as stop:
        script.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_workdir_that_is_a_run_raises(script, finished):
    with pytest.raises(InputError, match="is a run directory"):
        script.compare(["--data", "digits", "--workdir", str(finished[1] / "dense-2")])


def test_sequences_raise(script, tmp_path):
    np.savez(tmp_path / "x.npz", x=rng.random((120, 2), dtype=np.float32), lengths=np.full(20, 6))
    with pytest.raises(InputError, match="JPEG needs grey or colour images"):
        script.compare(["--data", str(tmp_path / "x.npz"), "--workdir", str(tmp_path / "run")])


@pytest.mark.slow
def test_larger_number_of_epochs_extends_the_runs(script, finished, tmp_path):
    """The table is that of the extended autoencoders; fewer epochs are an error."""
    arguments, workdir, text = finished
    shutil.copytree(workdir, tmp_path / "copy")
    arguments = [*arguments[:-1], str(tmp_path / "copy")]
    longer = script.compare([*arguments, "--epochs", "2"])
    assert longer != text
    assert json.loads((tmp_path / "copy/dense-2/config.json").read_text())["config"]["epochs"] == 2
    with pytest.raises(InputError, match="--epochs 2 there, 1 here"):
        script.compare(arguments)
    assert (tmp_path / "copy/compression.md").read_text() == longer
