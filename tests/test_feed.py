"""A small limit makes the data stream, in blocks of a few steps."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from conftest import equal
from experiments import sequence, vae
from jaxae import data, epoch, feed, loop, parallel
from jaxae.errors import Interrupted

STREAMED = 1e-9  # GiB
D = 2 * 2


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Three steps of five images for a single seed."""
    monkeypatch.setattr(feed, "BLOCK", 3 * 5 * D + 1)


def split(count, lengths=False):
    rng = np.random.default_rng(count)
    x, y = rng.integers(0, 256, (count, 2, 2, 1), np.uint8), np.arange(count, dtype=np.int32)
    return data.Split(x, y, rng.integers(1, 3, count, np.int32) if lengths else None)


def batches(portion, size, steps):
    """The rows that so many steps take, for each seed: images, classes, lengths."""
    seeds = next((len(v) for v, flat in ((portion.data.x, 2), (portion.order, 1)) if v.ndim > flat), 1)
    for i, seed in itertools.product(range(steps), range(seeds)):
        rows, order = portion.data, portion.order
        if rows.x.ndim == 3:
            rows = jax.tree.map(lambda leaf: leaf[seed], rows)  # noqa: B023
        order = order[seed] if order.ndim == 2 else order
        at = order[portion.start + i * size : portion.start + (i + 1) * size]
        assert len(at) == size
        yield jax.tree.map(lambda leaf: np.asarray(leaf[at]), rows)  # noqa: B023


@pytest.mark.parametrize(("count", "seeds", "lengths"), [(60, 1, False), (61, 1, True), (23, 2, False), (5, 1, False)])
def test_streamed_batches_are_the_resident_ones(count, seeds, lengths, monkeypatch):
    """From every step on, as after a restart, and by dispatches of any number of steps."""
    monkeypatch.setattr(feed, "BLOCK", seeds * feed.BLOCK)
    size, whole = 5, split(count, lengths)
    config = vae.Config(batch_size=size, seeds=seeds, epochs=2)
    plan = parallel.plan("auto", size, seeds)
    resident = feed.feed(whole, config, plan)
    several = 0
    for begin in range(2 * count // size):
        streamed = feed.feed(whole, dataclasses.replace(config, device_data_limit=STREAMED), plan)
        step = begin
        while step < epoch.first_step(2, count, size):
            now = next(e for e in (1, 0) if step >= epoch.first_step(e, count, size))
            mine, theirs = streamed(now, step), resident(now, step)
            steps = min(mine.steps, 1 + step % 3)
            assert 1 <= steps <= mine.steps <= theirs.steps
            several += steps > 1
            assert equal(list(batches(mine, size, steps)), list(batches(theirs, size, steps)))
            step += steps
    assert several or count == 5


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_streamed_run_is_the_resident_one_to_the_bit(tmp_path, seeds, monkeypatch):
    """Stopped within an epoch and a block, gone on with resident, stopped again, and streamed to the end."""
    monkeypatch.setattr(feed, "BLOCK", 3 * 128 * 784 * seeds)
    digits = data.load("digits")
    base = vae.Config(epochs=2, batch_size=128, hidden=(16,), seeds=seeds)
    experiment, plan = vae.build(base, digits.info), parallel.plan("auto", 128, seeds)

    def fit(folder, limit, dispatches=None):
        (tmp_path / folder).mkdir(exist_ok=True)
        asked = itertools.count(1)
        stop = loop.go_on if dispatches is None else lambda save: next(asked) >= dispatches
        config = dataclasses.replace(base, device_data_limit=limit)
        return loop.fit(experiment, config, digits, plan, tmp_path / folder, stop).state

    expected = fit("resident", 0.0)
    with pytest.raises(Interrupted):
        fit("streamed", STREAMED, 3)
    with pytest.raises(Interrupted):
        fit("streamed", 0.0, 2)
    assert equal(fit("streamed", STREAMED), expected)
    assert (tmp_path / "streamed" / "metrics.jsonl").read_bytes() == (
        tmp_path / "resident" / "metrics.jsonl"
    ).read_bytes()


def test_streamed_sequences_keep_their_lengths(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    x, lengths = rng.random((40, 6, 2), np.float32), rng.integers(1, 7, 40, np.int32)
    monkeypatch.setattr(feed, "BLOCK", 2 * 8 * x[:1].nbytes)
    whole = data.Split(x, np.full(40, -1, np.int32), lengths)
    dataset = data.Dataset(whole, whole, ())
    config = sequence.Config(epochs=2, batch_size=8, hidden=4, latent=3)
    experiment, plan = sequence.build(config, dataset.info), parallel.plan("auto", 8, 1)
    states = []
    for limit in (0.0, STREAMED):
        folder = tmp_path / str(limit)
        folder.mkdir()
        limited = dataclasses.replace(config, device_data_limit=limit)
        states.append(loop.fit(experiment, limited, dataset, plan, folder).state)
    assert equal(*states)


SEVERAL = """
import dataclasses, tempfile
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
from experiments import vae
from jaxae import data, feed, loop, parallel
from conftest import equal
feed.BLOCK = 3 * 128 * 784
digits = data.load("digits")
for way, seeds in (("pmap", 1), ("jit", 3), ("auto", 2)):
    states = []
    for limit in (0.0, 1e-9):
        config = vae.Config(epochs=1, batch_size=128, hidden=(16,), seeds=seeds, parallel=way, device_data_limit=limit)
        plan, experiment = parallel.plan(way, 128, seeds), vae.build(config, digits.info)
        assert plan.mode == {"auto": "seeds"}.get(way, way) and plan.devices == 2
        with tempfile.TemporaryDirectory() as folder:
            states.append(loop.fit(experiment, config, digits, plan, Path(folder)).state)
    far = jax.tree.map(lambda a, b: abs(a - b).max() / (abs(a).max() + 1e-9), states[0].params, states[1].params)
    assert equal(*states) if way == "pmap" else max(jax.tree.leaves(far)) < 1e-5, (way, seeds, far)
"""


def test_streamed_over_two_devices():
    """To the bit by pmap; under jit, which spreads seeds too, XLA fuses otherwise: to rounding, as in test_devices."""
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
