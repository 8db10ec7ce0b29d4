import logging
import random
import re
import shutil
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import equal
from jaxae.core.types import Averaged, State
from jaxae.errors import InputError
from jaxae.training.checkpoint import Checkpoints, OtherArrays, newest_digests

STATE = State(
    jnp.int32(3),
    {"a": jax.random.normal(jax.random.key(0), (50, 40)), "b": jnp.float32(1e-40)},
    (jnp.ones(3, jnp.bfloat16), (), {"count": jnp.uint32(7)}),
    {},
)
ITEMS = {"state": STATE, "totals": {"sum": jnp.array([-0.0, 1 / 3])}}
ABSTRACT = jax.eval_shape(lambda: ITEMS)


def save(folder, steps, items=ITEMS):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            state = items["state"]._replace(step=jnp.int32(step))
            checkpoints.save(step, {**items, "state": state}, {"size": step})


def restore(folder, abstract=ABSTRACT, read_only=False, **options):
    with Checkpoints(folder, read_only=read_only) as checkpoints:
        return checkpoints.restore(abstract, **options)


def test_round_trip_is_bit_exact(tmp_path):
    save(tmp_path, [3])
    items, meta = restore(tmp_path)
    assert equal(items, ITEMS)
    assert isinstance(items["state"], State)
    assert meta == {"size": 3}


def test_one_item_is_restored_alone(tmp_path):
    save(tmp_path, [3])
    items, _ = restore(tmp_path, {"state": ABSTRACT["state"]}, read_only=True)
    assert equal(items["state"], STATE)
    assert set(items) == {"state"}


def test_optimizer_state_is_skipped_but_for_the_leaves_named(tmp_path):
    averages = jax.tree.map(lambda leaf: leaf / 2, STATE.params)
    save(tmp_path, [3], {**ITEMS, "state": STATE._replace(opt_state=Averaged(STATE.opt_state, averages))})
    state = {"step": STATE.step, "params": STATE.params, "extra": {}}
    for part in (state, {**state, "opt_state": {"params": averages}}):
        restored = partial(restore, tmp_path, {"state": jax.eval_shape(lambda: part)}, read_only=True)  # noqa: B023
        with pytest.raises(OtherArrays, match=r"state/opt_state/inner/\S+ is \S+ there, missing here"):
            restored()
        assert equal(restored(skip=("state/opt_state/",))[0], {"state": part})
    fewer = {"state": {"params": {"a": ABSTRACT["state"].params["a"]}, "extra": {"c": ABSTRACT["state"].step}}}
    with pytest.raises(OtherArrays) as error:
        restore(tmp_path, fewer, read_only=True, skip=("state/opt_state/",))
    assert error.value.differences == [
        "state/extra/c is missing there, int32[] here",
        "state/step is int32[] there, missing here",
        "state/params/b is float32[] there, missing here",
    ]


def test_empty_folder_has_no_checkpoint(tmp_path):
    assert restore(tmp_path) is None


def test_newest_checkpoint_comes_first_and_two_are_kept(tmp_path):
    save(tmp_path, [1, 2, 5])
    assert restore(tmp_path)[1] == {"size": 5}
    assert len([p for p in tmp_path.iterdir() if p.name.isdigit()]) == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_step_is_saved_again_when_its_arrays_differ(tmp_path, at_once):
    """The evaluation at the end of an epoch changes the totals; the last saved ones are restored."""
    later = {**ITEMS, "totals": {"sum": jnp.array([0.0, 1 / 3])}}
    save(tmp_path, [1])
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, ITEMS, {"size": 5}, wait=not at_once)
        checkpoints.save(3, ITEMS, {"size": 99})  # already there
        if not at_once:
            assert checkpoints.restore(ABSTRACT)[1] == {"size": 5}
        checkpoints.save(3, later, {"size": 6})
    items, meta = restore(tmp_path)
    assert equal(items, later)
    assert meta == {"size": 6}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, later, {"size": 99})
    assert restore(tmp_path)[1] == {"size": 6}
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit()) == ["1", "3"]


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("fault", ["flip", "truncate", "delete", "zero", "append"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_restored(tmp_path, fault, read_only, caplog):
    """Any file of the newest checkpoint may be the damaged one."""
    save(tmp_path / "whole", [1, 2])
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole" / "2").rglob("*") if p.is_file())
    found = 0
    for i, name in enumerate(files):
        copy = tmp_path / f"copy{i}"
        for path in (tmp_path / "whole").rglob("*"):
            if path.is_file():
                (copy / path.relative_to(tmp_path / "whole")).parent.mkdir(parents=True, exist_ok=True)
                (copy / path.relative_to(tmp_path / "whole")).write_bytes(path.read_bytes())
        content = bytearray((copy / name).read_bytes())
        middle = len(content) // 2
        if fault == "delete":
            (copy / name).unlink()
        else:
            if fault == "flip" and content:
                content[middle] ^= 0x10
            changed = {"truncate": content[:middle], "zero": bytes(len(content)), "append": content + b"x"}
            (copy / name).write_bytes(changed.get(fault, content))
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jaxae"):
            items, meta = restore(copy, read_only=read_only)
        step = int(items["state"].step)
        assert meta == {"size": step}
        assert equal(items["state"]._replace(step=jnp.int32(3)), STATE)
        assert (step == 1) == ("checkpoint 2 is damaged" in caplog.text), name
        found += step == 1
        if step == 1:
            assert (copy / "2").exists() == read_only
    assert found or fault == "append"


def harm(path, kind, chance):
    """Damage a file at a random position with a fault of this kind."""
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content)) if content else 0
    if kind == "delete":
        path.unlink()
    elif kind == "flip" and content:
        content[at] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif kind == "truncate":
        path.write_bytes(content[:at])
    elif kind == "zero":
        path.write_bytes(content[:at] + bytes(len(content) - at))
    elif kind == "append":
        path.write_bytes(content + chance.randbytes(chance.randrange(1, 100)))


def test_restore_of_an_intact_checkpoint_logs_nothing(tmp_path, caplog):
    save(tmp_path, [1])
    with caplog.at_level(logging.WARNING):
        restore(tmp_path, read_only=True)
    assert not caplog.records


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_faults_never_restore_a_wrong_state(tmp_path, caplog, count):
    """With one or two faults in a directory of two checkpoints, `restore` returns one checkpoint intact, or None."""
    save(tmp_path / "whole", [1, 2])
    states = {step: {**ITEMS, "state": STATE._replace(step=jnp.int32(step))} for step in (1, 2, 3)}
    chance, faults, found = random.Random(0), 0, Counter()
    copy = tmp_path / "copy"
    while faults < count:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", copy)
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        hit = set(chance.sample(files, chance.choice((1, 1, 2))))
        for path in hit:
            harm(path, chance.choice(("flip", "truncate", "delete", "zero", "append")), chance)
        faults += len(hit)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jaxae"), Checkpoints(copy) as checkpoints:
            restored = checkpoints.restore(ABSTRACT)
            step = 0 if restored is None else int(restored[0]["state"].step)
            if restored is not None:
                assert equal(restored[0], states[step])
                assert restored[1] == {"size": step}
            named = {int(name) for name in re.findall(r"checkpoint (\d) is damaged", caplog.text)}
            touched = {
                int(path.relative_to(copy).parts[0]) for path in hit if path.relative_to(copy).parts[0].isdigit()
            }
            assert named <= touched
            assert named == {newer for newer in (1, 2) if newer > step}
            if sum(found.values()) % 10 == 0:
                checkpoints.save(3, states[3], {"size": 3}, wait=True)
                assert equal(checkpoints.restore(ABSTRACT)[0], states[3])
        found[step] += 1
    assert min(found[1], found[2]) > 0, found  # the names of files, and so the faults, are random


@pytest.mark.parametrize("read_only", [True, False])
def test_checkpoint_of_other_code_raises_and_is_kept(tmp_path, read_only):
    save(tmp_path, [3])
    for change in (jnp.zeros((50, 41)), jnp.zeros((50, 40), jnp.bfloat16)):
        params = {**STATE.params, "a": change}
        other = jax.eval_shape(lambda: {**ITEMS, "state": STATE._replace(params=params)})  # noqa: B023
        with pytest.raises(
            InputError, match=r"checkpoint 3 was written by different code: state/params/a is float32\[50, 40\]"
        ):
            restore(tmp_path, other, read_only=read_only)
    fewer = jax.eval_shape(lambda: {**ITEMS, "state": STATE._replace(opt_state=STATE.opt_state[:2])})
    with pytest.raises(InputError, match=r"state/opt_state/2/count is uint32\[\] there, missing here"):
        restore(tmp_path, fewer, read_only=read_only)
    assert equal(restore(tmp_path)[0], ITEMS)


def test_renamed_checkpoint_is_damaged(tmp_path, caplog):
    save(tmp_path, [1, 2])
    (tmp_path / "1").rename(tmp_path / "9")
    with caplog.at_level(logging.WARNING, "jaxae"):
        assert restore(tmp_path)[1] == {"size": 2}
    assert "checkpoint 9 is damaged" in caplog.text


def test_damaged_checkpoint_has_no_recorded_digests(tmp_path):
    assert newest_digests(tmp_path) == {}
    save(tmp_path, [1])
    assert newest_digests(tmp_path)["step"] == "1"
    (tmp_path / "1" / "meta" / "metadata").write_text("[" * 100_000)
    with pytest.raises(InputError, match="the newest checkpoint is damaged"):
        newest_digests(tmp_path)


def test_saving_resumes_after_a_damaged_checkpoint(tmp_path):
    save(tmp_path, [1, 5])
    for path in (tmp_path / "5").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(ABSTRACT)[1] == {"size": 1}
        checkpoints.save(3, ITEMS, {"size": 3})
    assert restore(tmp_path)[1] == {"size": 3}
    np.testing.assert_array_equal(restore(tmp_path)[0]["state"].step, 3)


def broken(*_, **__):
    raise ValueError("a long error of TensorStore")


def lose(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, ITEMS, {}, wait=True)
        folder.rename(folder.with_name("elsewhere"))
        folder.mkdir()
        checkpoints._manager.wait_until_finished = broken


def test_checkpoint_directory_replaced_while_saving_raises(tmp_path):
    """Orbax creates missing folders, so that an existing directory may be another one."""
    with pytest.raises(OSError, match="No such file or directory"):
        lose(tmp_path / "checkpoints")


def fail_twice(folder):
    with Checkpoints(folder) as checkpoints:
        checkpoints._manager.wait_until_finished = broken
        raise OSError("the first")


def test_error_in_the_body_takes_precedence_over_one_on_closing(tmp_path):
    with pytest.raises(OSError, match="the first"):
        fail_twice(tmp_path)
