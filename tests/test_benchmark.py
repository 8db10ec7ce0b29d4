import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from conftest import script
from jaxae import data
from jaxae.devices import plan as plans
from jaxae.experiments import vae
from jaxae.run import command_line, loop
from jaxae.training import records
from jaxae.training.iterate import iterate

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    """Import path of `scripts/`, as when a script is run."""
    for folder in (SCRIPTS, SCRIPTS / "contenders"):
        monkeypatch.syspath_prepend(str(folder))


def kernels(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return sum(leaf.size for path, leaf in leaves if path[-1].key in ("kernel", "recurrent"))


@pytest.mark.slow
def test_operations_count_every_kernel_of_the_networks():
    """The counts also agree with a hand-computed one."""
    workloads = importlib.import_module("contenders.workloads")
    for name, work in (workloads.WORKLOADS | workloads.SMALL).items():
        module = importlib.import_module(f"jaxae.experiments.{work.experiment}")
        config = command_line.parse(module.Config, "", work.flags)
        info = data.Info(work.shape, 1000)
        state = loop.abstract(module.build(config, info), config, info)["state"]
        assert kernels(state.params) == sum(i * o for _, i, o in (*work.layers, *work.discriminator)), name
    # Five products: two layers in the forward pass, the gradients of both kernels, and that of the hidden units.
    tiny = workloads.Workload("", "", (), 7, ((1, 3, 5), (1, 5, 3)))
    assert tiny.operations == 5 * 2 * 7 * 15
    assert tiny.moved == 7 * 4 * 30


@pytest.mark.parametrize("name", ["dense 1024", "VAE 32", "denoising 128", "mirrored 32", "LSTM 128"])
def test_plain_flax_loop_has_the_same_network(name):
    workloads = importlib.import_module("contenders.workloads")
    flax = importlib.import_module("plain_flax")
    work = workloads.WORKLOADS[name]
    encoder, decoder = flax.nets(work._asdict())
    shape = importlib.import_module("turns").shape(work.net, (28, 28, 1))
    x, total = jax.ShapeDtypeStruct((1, *shape), "float32"), 0
    for net in (encoder, decoder):
        params = jax.eval_shape(net.init, jax.random.key(0), x)
        total += kernels(params)
        z = jax.eval_shape(net.apply, params, x)
        x = jax.ShapeDtypeStruct((1, work.latent), "float32") if work.latent else z
    assert total == sum(inputs * outputs for _, inputs, outputs in work.layers)


@pytest.mark.parametrize("name", ["dense 1024", "VAE 32", "denoising 128", "mirrored 32", "LSTM 128"])
def test_pytorch_has_the_same_network(name):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[bench]'")
    workloads = importlib.import_module("contenders.workloads")
    pytorch = importlib.import_module("pytorch")
    work = workloads.WORKLOADS[name]
    nets = pytorch.nets(work._asdict())
    total = sum(p.numel() for net in nets for p in net.parameters() if p.ndim > 1)
    assert total == sum(inputs * outputs for _, inputs, outputs in work.layers)


@pytest.mark.parametrize("name", ["resnet_vae 64", "kl_autoencoder 16"])
def test_pytorch_has_the_same_networks_of_colour_images(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[bench]'")
    work = importlib.import_module("contenders.workloads").WORKLOADS[name]
    encoder, decoder, *rest = importlib.import_module("pytorch_colour").nets(work._asdict())
    total = sum(p.numel() for net in (encoder, decoder, *rest) for p in net.parameters() if p.ndim > 1)
    assert total == sum(inputs * outputs for _, inputs, outputs in (*work.layers, *work.discriminator))
    height, width, channels = work.shape
    code = encoder(torch.zeros(2, channels, height, width)).chunk(2, 1)[0]
    assert decoder(code).shape[2:] == (height, width)
    if rest:
        assert rest[0](torch.zeros(2, channels, height, width)).shape == (2, 1, height // 4, width // 4)


def test_steps_are_divided_into_epochs():
    turns = importlib.import_module("turns")
    assert turns.epochs(500, 468) == [468, 32]
    assert turns.epochs(936, 468) == [468, 468]
    assert turns.epochs(3, 468) == [3]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_contender_trains_exactly_the_requested_steps_of_a_run(tmp_path, seeds):
    """The mean loss of an epoch equals that of the run bit for bit, for any division into turns."""
    digits = data.load("digits")
    config = vae.Config(epochs=1, batch_size=128, hidden=(16,), seeds=seeds)
    experiment = vae.build(config, digits.info)
    plan = plans.plan("auto", 128, seeds, jax.devices()[:1])
    loop.train(experiment, config, digits, plan, tmp_path)
    line = records.read(tmp_path / "metrics.jsonl")[0]
    steps = importlib.import_module("ours").stepper(experiment, config, digits)
    losses = [steps(count) for count in (1, 5, line["step"] - 6, 4)]
    assert np.float32(losses[2]) == np.float32(np.mean(np.float32(records.each(line["loss"]))))
    end = line["step"] + 4  # in the second epoch
    snapshots = iterate(experiment, digits, epochs=2, batch_size=128, seeds=seeds, plan=plan, every=end)
    expected = next(now for now in snapshots if now.step == end)
    assert losses[3] == float(np.mean(expected.train["loss"]))


def test_contender_evaluates_one_example_only():
    images = np.random.default_rng(0).integers(0, 256, (64, 784), np.uint8)
    dataset = importlib.import_module("ours").dataset(images)
    assert (len(dataset.train.x), len(dataset.test.x)) == (64, 1)
    np.testing.assert_array_equal(dataset.train.x.reshape(64, 784), images)
    large = script("benchmark").enlarged(images, (56, 56, 3)).reshape(64, 28, 2, 28, 2, 3)
    np.testing.assert_array_equal(large[:, :, 1, :, 0, 2].reshape(64, 784), images)


@pytest.mark.slow
def test_benchmark_reports_ratios_and_skips_what_is_not_installed(tmp_path):
    command = [sys.executable, str(SCRIPTS / "benchmark.py"), "--workloads", "VAE 32", "--turns", "1"]
    command += ["--seconds", "0.05", "--json", str(tmp_path / "out.json")]
    command += ["--contenders", "jaxae", "PyTorch", "plain Flax loop"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if importlib.util.find_spec("torch") is None:
        assert "PyTorch is not installed and is skipped: pip install -e '.[bench]'" in done.stderr
    rows = {row["contender"]: row for row in json.loads((tmp_path / "out.json").read_text())["rows"]}
    assert rows["jaxae"]["ratio"] == [1, 1, 1]
    flax = rows["plain Flax loop"]
    assert flax["ratio"][1] <= flax["ratio"][0] <= flax["ratio"][2]
    for row in rows.values():
        assert row["images_per_second"] == pytest.approx(32e3 / row["ms"])
        assert 0 < row["limit"] < 1.5
        assert 100 < row["loss"] < 500
    assert done.stdout.count("| VAE 32 |") == len(rows)


def test_table_has_the_medians_of_the_turns():
    benchmark = script("benchmark")
    work = benchmark.WORKLOADS["8 seeds of VAE 128"]
    turns = [
        {
            "limit": 4.0,
            "jaxae": {"ms": ours, "loss": 1, "memory": 2**20},
            "other": {"ms": theirs, "loss": 1, "memory": 5},
        }
        for ours, theirs in ((10.0, 30.0), (20.0, 40.0), (8.0, 8.0))
    ]
    row = benchmark.row("name", work, "other", 1.0, turns)
    assert row["ratio"] == [2.0, 1.0, 3.0]
    assert row["ms"] == 30.0
    assert row["images_per_second"] == pytest.approx(8 * 128 / 0.030)
    assert row["limit"] == pytest.approx(4 / 30)
    assert "| name | other | 30 | 34,133 | 2.00 (1.00 to 3.00) | 13% |" in benchmark.table([row])


@pytest.mark.slow
def test_scaling_writes_a_table_and_a_picture(tmp_path):
    command = [sys.executable, str(SCRIPTS / "scaling.py"), "--largest", "10000", "--seconds", "0.05", "--turns", "1"]
    done = subprocess.run([*command, "--picture", str(tmp_path / "p.png")], capture_output=True, text=True, check=True)
    assert done.stdout.count("| examples | 10,000 |") == 2
    assert (tmp_path / "p.png").stat().st_size > 10_000
