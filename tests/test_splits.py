"""Splits of any source, and what training does with a validation split."""

import json

import jax
import numpy as np
import pytest

import jaxae
from conftest import equal
from jaxae import data
from jaxae.data import rows as lazy_rows
from jaxae.errors import InputError
from jaxae.training import selection
from jaxae.training.checkpoint import Checkpoints
from jaxae.training.selection import Selection
from test_pictures import PIXELS, save

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
Y = np.array(["a", "b", "c"])[np.arange(60) % 3]


def rows(split):
    """The indices in X of the examples of a split."""
    return [int(np.argmin(np.abs(X - row).sum(1))) for row in split.x]


@pytest.mark.parametrize(("valid", "count"), [(0.2, 10), (12, 12)])
def test_fraction_or_number_is_held_out_stratified_and_the_rest_keeps_its_order(valid, count):
    found = data.from_arrays(X, Y, valid=valid, test=6, scale="none")
    places = [rows(split) for split in found.splits]
    assert [len(part) for part in places] == [54 - count, 6, count]
    assert sorted(np.concatenate(places)) == list(range(60))
    for split, part in zip(found.splits, places, strict=True):
        assert part == sorted(part)
        assert [found.classes[y] for y in split.y] == Y[part].tolist()
        assert np.ptp(np.bincount(split.y)) <= 1


def test_training_examples_are_the_test_split_with_test_0():
    found = data.from_arrays(X, test=0, valid=0.1)
    assert found.test is found.train
    assert len(found.train.x) == 54


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_folders_of_three_splits_are_read(tmp_path, name):
    for folder, part in zip(("train", name, "test"), (PIXELS[:6], PIXELS[6:9], PIXELS[9:]), strict=True):
        save(tmp_path / "p" / folder / "cat", part)
    found = data.load(str(tmp_path / "p"))
    for split, part in zip(found.splits, (PIXELS[:6], PIXELS[9:], PIXELS[6:9]), strict=True):
        np.testing.assert_array_equal(split.x, part)
    assert "6 training, 3 validation and 3 test images" in data.summary(found)


def test_validation_split_alone_becomes_the_test_split_with_a_note(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X[:50], x_val=X[50:])
    found = data.load(str(tmp_path / "a.npz"), scale="none")
    assert (rows(found.test), found.valid) == (list(range(50, 60)), None)
    assert "the validation split is used as the test split" in found.notes[-1]
    kept = data.load(str(tmp_path / "a.npz"), scale="none", test="0.1")
    assert (len(kept.train.x), len(kept.test.x), rows(kept.valid)) == (45, 5, list(range(50, 60)))


def test_splits_from_other_paths_share_classes_columns_and_scale(tmp_path):
    def write(name, x, y):
        lines = [f"{a},{'ab'[int(b > 0)]},{label}" for (a, b), label in zip(x, y, strict=True)]
        (tmp_path / name).write_text("\n".join(["height,kind,label", *lines]) + "\n")

    x = X[:, :2]
    write("train.csv", x[:40], Y[:40])
    write("test.csv", x[40:50], ["c", "new"] * 5)
    (tmp_path / "valid.csv").write_text("height,kind,label\n1,a,b\n")  # lacks one category
    how = {"target": "label", "test": str(tmp_path / "test.csv"), "valid": str(tmp_path / "valid.csv")}
    found = data.load(str(tmp_path / "train.csv"), **how)
    assert found.classes == ("a", "b", "c", "new")
    assert found.test.y.tolist() == [2, 3] * 5
    assert found.valid.y.tolist() == [1]
    assert found.features == ("height", "kind=a", "kind=b")
    mean, std = X[:40, 0].mean(), X[:40, 0].std()
    np.testing.assert_allclose(found.test.x[:, 0], (X[40:50, 0] - mean) / std, rtol=1e-5)
    np.testing.assert_allclose(found.valid.x[:, 0], [(1 - mean) / std], rtol=1e-5)


def test_test_split_may_have_sequences_of_other_lengths(tmp_path):
    np.savez(tmp_path / "train.npz", *[rng.normal(size=n) for n in (3, 4, 5)])
    np.savez(tmp_path / "test.npz", *[rng.normal(size=n) for n in (7, 2)])
    found = data.load(str(tmp_path / "train.npz"), test=str(tmp_path / "test.npz"))
    assert found.train.x.shape == (3, 7, 1)
    assert found.test.lengths.tolist() == [7, 2]
    assert not found.train.x[:, 5:].any()


def test_named_sets_have_validation_splits():
    found, whole = data.load("digits", valid="0.1"), data.load("digits")
    assert len(found.train.x) + len(found.valid.x) == len(whole.train.x)
    np.testing.assert_array_equal(found.test.x, whole.test.x)
    assert found.fingerprint() != whole.fingerprint()


def test_memory_mapped_splits_equal_those_in_memory(tmp_path, monkeypatch):
    x = rng.integers(0, 256, (50, 2, 3), dtype=np.uint8)
    expected = data.from_arrays(x, valid=0.2).fingerprint()
    monkeypatch.setattr(lazy_rows, "LARGE", 100)
    np.save(tmp_path / "x.npy", x)
    found = data.load(str(tmp_path / "x.npy"), valid="0.2")
    assert [type(split.x) for split in found.splits] == [lazy_rows.Rows] * 3
    assert found.fingerprint() == expected


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"test": "1.5"}, r"test=1.5 must be a fraction below 1, a number of examples, or a path"),
        ({"valid": "-1"}, "valid=-1 must be"),
        ({"valid": "nan"}, "valid=nan must be"),
        ({"valid": "54"}, "valid=54 holds out all 54 examples; use fewer"),
        ({"test": "nowhere.npy"}, "nowhere.npy: there is no such file"),
        (
            {"test": "digits"},
            r"test=digits: its examples are image \[28, 28, 1\] uint8, but those of the ",
        ),
    ],
)
def test_invalid_splits_raise(tmp_path, fields, says):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match=says):
        data.load(str(tmp_path / "x.npy"), **fields)


def test_split_that_exists_is_not_replaced():
    with pytest.raises(InputError, match=r"test=0.1 has no effect, since the data have a test split of their own"):
        data.load("digits", test="0.1")


def test_split_of_one_class_is_reported():
    order = np.argsort(Y)
    found = data.from_arrays(X[order][:45], Y[order][:45], test=X[order][45:], test_y=Y[order][45:])
    assert found.notes[-1] == "all test examples are of class c: were the data sorted when they were split?"
    assert data.from_arrays(X, Y).notes == ("float64 from -2.398 to 2.002",)


def test_validation_array_stays_the_validation_split():
    found = data.from_arrays(X[:50], valid=X[50:], scale="none")
    assert (len(found.train.x), len(found.test.x), rows(found.valid)) == (45, 5, list(range(50, 60)))


@pytest.mark.parametrize("hop", [0, 1, 7])
def test_windows_of_one_stream_do_not_overlap_with_held_out_ones(tmp_path, hop):
    np.savez(tmp_path / "stream.npz", x=np.arange(1005.0)[:, None], lengths=[1005])
    found = data.load(str(tmp_path / "stream.npz"), scale="none", window=20, hop=hop, valid="0.1")
    steps = [{int(step) for row in split.x for step in row[:, 0]} for split in found.splits]
    assert not steps[0] & steps[1]
    assert not steps[0] & steps[2]
    assert not steps[1] & steps[2]
    assert ("because they overlap held-out windows" in data.summary(found)) == (hop > 0)


def test_all_splits_have_lengths_if_one_has(tmp_path):
    np.savez(tmp_path / "train.npz", *[rng.normal(size=n) for n in (3, 4, 5)])
    np.save(tmp_path / "test.npy", rng.normal(size=(4, 3)))
    found = data.load(str(tmp_path / "train.npz"), test=str(tmp_path / "test.npy"))
    assert found.test.lengths.tolist() == [3] * 4
    assert found.test.x.shape == (4, 5, 1)


# Training with a validation split.

UNSTOPPED = [[5, 1, 5], [3, 2, 4], [4, 3, 3], [2, 4, 2], [6, 5, 1]]
NOISE = rng.normal(size=(40, 6))  # too few to generalize from
SMALL = {"hidden": (64,), "latent": 2, "lr": 0.05, "batch_size": 10, "progress": False}


def follow(losses, keep, stop_after):
    """The `SelectionState` after epochs with these validation losses, [epoch][seed]."""
    losses = np.float32(losses)
    kept = selection.init(jaxae.core.types.State(np.zeros(losses.shape[1:], np.int32), {}, (), {}))
    for epoch, loss in enumerate(losses, 1):
        state = kept.state._replace(step=np.full(losses.shape[1:], 10 * epoch, np.int32))
        kept = selection.update(kept, state, epoch, loss, Selection(keep, stop_after))
    return kept


@pytest.mark.parametrize(
    ("keep", "stop_after", "epochs", "stopped"),
    [
        ("best", 0, [4, 1, 5], [False] * 3),
        ("best", 2, [2, 1, 5], [True, True, False]),  # the smaller losses of epoch 5 come too late
        ("last", 2, [4, 3, 5], [True, True, False]),
        ("last", 1, [3, 2, 5], [True, True, False]),
    ],
)
def test_seeds_are_selected_and_stopped_independently(keep, stop_after, epochs, stopped):
    losses = [[5, 1, 5], [3, 2, 4], [4, 3, 3], [3.5, 4, 2], [1, 0.5, 1]] if stop_after else UNSTOPPED
    together = follow(losses, keep, stop_after)
    assert together.stopped.tolist() == stopped
    assert together.epoch.tolist() == epochs
    assert together.state.step.tolist() == [10 * epoch for epoch in epochs]
    for seed in range(3):
        alone = follow([row[seed] for row in losses], keep, stop_after)
        assert equal(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together), alone)


def losses_of(model, split="valid"):
    return [line["loss"] for line in model.history if line["split"] == split]


BEST = {"epochs": 12, "valid": 0.25, "test": 0.25, "keep": "best", "figures": False, **SMALL}


@pytest.mark.slow
def test_best_epoch_is_kept(tmp_path):
    """In memory, by `save`, and by `load`."""
    model = jaxae.fit("dense", NOISE, **BEST)
    losses = losses_of(model)
    best = int(np.argmin(losses)) + 1
    assert 1 < best < 12  # otherwise the test is vacuous
    shorter = jaxae.fit("dense", NOISE, **{**BEST, "epochs": best, "keep": "last"})
    assert equal(model.state, shorter.state)
    split = data.from_arrays(NOISE, valid=0.25, test=0.25).valid
    np.testing.assert_allclose(model.evaluate(split)["loss"], min(losses), rtol=1e-5)
    model.save(tmp_path / "saved")
    assert equal(jaxae.load(tmp_path / "saved").state, model.state)
    again = jaxae.fit("dense", NOISE, workdir=tmp_path / "saved", **BEST)  # nothing is left to train
    assert equal(again.state, model.state)


@pytest.mark.slow
def test_run_directory_keeps_the_best_epoch(tmp_path):
    model = jaxae.fit("dense", NOISE, **BEST)
    best = int(np.argmin(losses_of(model))) + 1
    run = jaxae.fit("dense", NOISE, workdir=tmp_path / "run", **BEST)
    assert equal(run.state, model.state)
    result = json.loads((tmp_path / "run/result.json").read_text())["metrics"]
    assert (result["epoch"], result["loss"]) == (best, losses_of(model, "test")[best - 1])
    assert equal(jaxae.load(tmp_path / "run").state, model.state)
    np.testing.assert_array_equal(run.encode(NOISE), model.encode(NOISE))
    warm = jaxae.fit("dense", NOISE, init_from=str(tmp_path / "run"), epochs=1, test=0.25, **{**SMALL, "lr": 1e-12})
    for new, old in zip(jax.tree.leaves(warm.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_allclose(new, old, atol=1e-9)


@pytest.mark.slow
def test_each_seed_keeps_its_own_best_epoch(tmp_path):
    several = jaxae.fit("dense", NOISE, seeds=2, **BEST)
    each = np.array([loss["seeds"] for loss in losses_of(several)])
    assert len(set(each.argmin(0))) == 2  # otherwise the test is vacuous
    split = data.from_arrays(NOISE, valid=0.25, test=0.25).valid
    np.testing.assert_allclose(several.evaluate(split)["loss"], each.min(0), rtol=1e-5)
    several.save(tmp_path / "several")
    several[1].save(tmp_path / "second")
    assert equal(jaxae.load(tmp_path / "several").state, several.state)
    assert equal(jaxae.load(tmp_path / "second").state, several[1].state)


def test_training_stops_early_and_resumes_as_stopped(tmp_path, capsys):
    how = {"epochs": 40, "valid": 0.25, "test": 0.25, "stop_after": 3, **SMALL}
    model = jaxae.fit("dense", NOISE, **how)
    losses = losses_of(model)
    best = int(np.argmin(losses)) + 1
    assert len(losses) == best + 3 < 40
    assert equal(model.state, jaxae.fit("dense", NOISE, **{**how, "epochs": best + 3, "stop_after": 0}).state)
    how |= {"workdir": tmp_path / "run", "figures": False}
    assert equal(jaxae.fit("dense", NOISE, **how).state, model.state)
    (tmp_path / "run/result.json").unlink()
    assert equal(jaxae.fit("dense", NOISE, **{**how, "progress": True}).state, model.state)
    assert losses_of(jaxae.load(tmp_path / "run")) == losses
    assert (
        f"stopped early, after 3 epochs without a smaller validation loss; kept epoch {best + 3} of 40"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_extended_run_keeps_the_best_epoch_of_an_uninterrupted_one(tmp_path):
    """A run extended from 8 to 12 epochs ends with the kept state of an uninterrupted run."""
    how = {"valid": 0.25, "test": 0.25, "keep": "best", "figures": False, **SMALL}
    whole = jaxae.fit("dense", NOISE, epochs=12, **{**how, "figures": None})
    for epochs in (8, 12):
        jaxae.fit("dense", NOISE, epochs=epochs, workdir=tmp_path / "run", **how)
    assert equal(jaxae.load(tmp_path / "run").state, whole.state)
    with Checkpoints(tmp_path / "run/checkpoints", read_only=True) as checkpoints:
        assert any(path.startswith("kept/state/params") for path in checkpoints.newest_digests())


@pytest.mark.parametrize(
    ("fields", "says"), [({"keep": "best"}, "keep=best needs"), ({"stop_after": 2}, "stop_after=2")]
)
def test_selection_needs_a_validation_split(tmp_path, fields, says):
    with pytest.raises(InputError, match=f"{says}.* a validation split; hold one out with valid=0.1"):
        jaxae.fit("dense", NOISE, workdir=tmp_path / "run", **fields, **SMALL)
    assert not (tmp_path / "run").exists()
