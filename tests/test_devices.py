import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from conftest import script
from jaxae.training import optimizers, records
from jaxae.training.checkpoint import newest_digests
from short_runs import FIELDS

sharding = script("sharding")
ROOT = Path(__file__).parents[1]
TABLES = json.loads(Path(__file__).with_name("devices.json").read_text())
# Experiments whose loss or codebook needs the global batch, so that they do not support microbatches.
WHOLE = {"dip_vae", "factor_vae", "geco", "infovae", "kl_autoencoder", "swae", "tcvae", "wae"}
WHOLE |= {"code_prior", "codec", "masked_prior", "vqvae", "vqvae2"}
WHOLE |= {"batch_topk", "gated", "jump_relu", "l1", "matching_pursuit", "matryoshka", "topk"}


# Seeds 2 to 5: with others a value lies so near to a rounding boundary that the order of summation changes its code.
ROUNDED = {"fsq": {"seed": 2}}


def on_devices(*arguments):
    """Run `on_devices.py`, and return the table that it prints."""
    command = [sys.executable, Path(__file__).with_name("on_devices.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def agree(name, modes, rows, **fields):
    """Parameters and metrics agree with those on one device."""
    table = on_devices(name, modes, json.dumps(fields))
    assert len(table) == rows
    for way, differences in table.items():
        assert max(differences) <= (0 if modes == "bits" else 1e-5), way


@pytest.mark.slow
def test_terms_of_the_global_batch_have_the_same_gradients_on_several_devices():
    """Gradients, metrics and updates of one step agree for terms with `Batch.mean` and `Batch.gather`."""
    table = on_devices("terms")
    names = ("mmd", "total correlation", "codebook", "batch top-k", "adaptive weight")
    assert {f"{term}, pmap {n}" for term in names for n in (2, 8)} <= set(table)
    for row, differences in table.items():
        assert max(differences) <= 1e-5, row


def test_toy_agrees_under_pmap_and_jit_and_fsdp():
    """Batch norm, a codebook and a penalty on the batch: parameters and metrics agree up to float rounding."""
    agree("toy", "fast", 3)


@pytest.mark.slow
def test_experiment_agrees_under_pmap_and_jit_and_with_microbatches():
    agree("vae", "fast", 4, hidden=[16])


@pytest.mark.slow
def test_wrapped_nets_of_other_libraries_agree_on_several_devices():
    """Dropout and batch norm of Flax NNX."""
    agree("foreign", "fast", 3)
    agree("foreign", "fast", 4, batch_norm=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "dense", "vqvae"])
def test_split_state_agrees_with_that_of_one_device(name):
    """--parallel fsdp, with one and with four seeds."""
    agree(name, "fsdp", 4 if name in WHOLE else 6, **FIELDS.get(name, {}))


@pytest.mark.slow
def test_sequences_of_many_lengths_agree_on_several_devices(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", *(rng.random((rng.integers(1, 9), 3), np.float32) for _ in range(240)))
    agree("sequence", "fast", 4, data=str(tmp_path / "s.npz"), latent=5, hidden=6)


@pytest.mark.slow
def test_dropout_agrees_on_several_devices():
    agree("mirrored", "one", 1, **FIELDS["mirrored"], dropout=0.25)  # the toy covers batch norm


@pytest.mark.slow
def test_toy_agrees_in_every_mode_of_data_parallelism():
    agree("toy", "split", 16)


@pytest.mark.slow
def test_convolution_is_reproducible_on_any_number_of_devices():
    agree("strided", "bits", 8, filters=[4, 4])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TABLES.keys() - WHOLE))
def test_every_experiment_is_reproducible_on_any_number_of_devices(name):
    agree(name, "bits", 8, **FIELDS.get(name, {}))


UPDATES = [
    *({"optimizer": name, "weight_decay": 0.01, "clip": 0.1} for name in get_args(optimizers.Name)),
    *({"schedule": name, "warmup_steps": 2, "ema": 0.5} for name in get_args(optimizers.Decay)),
]


@pytest.mark.slow
@pytest.mark.parametrize("fields", UPDATES, ids=str)
def test_every_optimizer_is_reproducible_on_any_number_of_devices(fields):
    agree("dense", "bits", 8, hidden=[8], latent=2, **fields)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_every_experiment_agrees_in_every_mode(name):
    agree(name, "all", 16 if name in WHOLE else 30, **FIELDS.get(name, {}), **ROUNDED.get(name, {}))


def run(workdir, devices, *more, number=0):
    """Exit code of the command on this many devices; a signal, if any, is sent after its first epoch."""
    command = [sys.executable, "-m", *more, "--workdir", workdir, "--epochs", "4", "--figures", "none"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        if number:
            process.stdout.readline()
            process.send_signal(number)
        process.stdout.read()
    return process.returncode


def moved(folder, devices, *more):
    """Train on each of these numbers of devices in turn; a signal ends the run on all but the last.

    Also train an uninterrupted run on the last number.
    """
    for i, n in enumerate(devices[:-1]):
        number = (signal.SIGKILL, signal.SIGTERM)[i % 2]
        assert run(folder / "moved", n, *more, number=number) == (-9, 143)[i % 2]
    assert run(folder / "moved", devices[-1], *more) == 0
    assert run(folder / "stays", devices[-1], *more) == 0
    return folder / "moved", folder / "stays"


DENSE = (
    *("jaxae", "dense", "--hidden", "20", "--latent", "3", "--batch-size", "64"),
    *("--checkpoint-unit", "steps", "--checkpoint-every", "7"),
)
VAE = ("jaxae", "vae", "--hidden", "20", "--batch-size", "64", "--seeds", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "devices"),
    [
        pytest.param(DENSE, (4, 1), id="dense"),
        pytest.param(DENSE, (8, 4, 1, 2), id="all"),
        pytest.param(VAE, (8, 1), id="vae"),
    ],
)
def test_reproducible_run_resumes_bit_exact_on_another_number_of_devices(tmp_path, experiment, devices):
    one, other = moved(tmp_path, devices, *experiment, "--reduction", "reproducible")
    assert newest_digests(one / "checkpoints") == newest_digests(other / "checkpoints")
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_fast_run_resumes_on_another_number_of_devices_within_rounding(tmp_path):
    one, other = moved(tmp_path, (8, 2), *DENSE)
    for a, b in zip(*(records.read(path / "metrics.jsonl") for path in (one, other)), strict=True):
        for name in ("step", *records.names(b)):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("stages", [((8, "fsdp"), (1, "auto")), ((2, "pmap"), (4, "fsdp"))], ids=str)
def test_run_resumes_with_another_placement_of_its_state_within_rounding(tmp_path, stages):
    (first, before), (then, after) = stages
    assert run(tmp_path / "moved", first, *DENSE, "--parallel", before, number=signal.SIGTERM) == 143
    assert run(tmp_path / "moved", then, *DENSE, "--parallel", after) == 0
    assert run(tmp_path / "stays", then, *DENSE, "--parallel", after) == 0
    for a, b in zip(*(records.read(tmp_path / path / "metrics.jsonl") for path in ("moved", "stays")), strict=True):
        for name in ("step", *records.names(b)):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4)


@pytest.mark.slow
def test_run_with_a_split_state_resumes_bit_exact(tmp_path):
    one, other = moved(tmp_path, (4, 4), *DENSE, "--parallel", "fsdp", "--valid", "0.2", "--keep", "best")
    assert newest_digests(one / "checkpoints") == newest_digests(other / "checkpoints")
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()


def test_largest_gathered_array_of_a_program_for_any_dtype_and_asynchronous():
    text = """
  %all-gather.1 = f32[8,512]{1,0} all-gather(f32[1,512]{1,0} %p), dimensions={0}
  %all-gather.2 = (f32[16]{0}, bf16[8,4,512]{2,1,0}) all-gather(f32[2]{0} %q, bf16[1,4,512]{2,1,0} %r), dimensions={0}
  %start = (s32[1,99]{1,0}, s32[8,99]{1,0}) all-gather-start(s32[1,99]{1,0} %s), dimensions={0}
  %all-reduce = f32[999,999]{1,0} all-reduce(f32[999,999]{1,0} %t), to_apply=%add
"""
    lines = text.strip().splitlines()
    expected = [4 * 8 * 512, 2 * 8 * 4 * 512, 4 * 8 * 99, 0]
    assert [sharding.largest_gathered(line) for line in lines] == expected
    assert sharding.largest_gathered(text) == max(expected)
