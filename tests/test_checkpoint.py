import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conftest import equal
from jaxae.checkpoint import Checkpoints
from jaxae.errors import InputError
from jaxae.types import State

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


def restore(folder, abstract=ABSTRACT, read_only=False):
    with Checkpoints(folder, read_only=read_only) as checkpoints:
        return checkpoints.restore(abstract)


def test_round_trip_is_the_same_bits(tmp_path):
    save(tmp_path, [3])
    items, meta = restore(tmp_path)
    assert equal(items, ITEMS)
    assert isinstance(items["state"], State)
    assert meta == {"size": 3}


def test_one_item_alone(tmp_path):
    save(tmp_path, [3])
    items, _ = restore(tmp_path, {"state": ABSTRACT["state"]}, read_only=True)
    assert equal(items["state"], STATE)
    assert set(items) == {"state"}


def test_nothing_there(tmp_path):
    assert restore(tmp_path) is None


def test_newest_comes_first_and_two_are_kept(tmp_path):
    save(tmp_path, [1, 2, 5])
    assert restore(tmp_path)[1] == {"size": 5}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, ITEMS, {"size": 99})  # already there
    assert restore(tmp_path)[1] == {"size": 5}
    assert len([p for p in tmp_path.iterdir() if p.name.isdigit()]) == 2


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("fault", ["flip", "truncate", "delete", "zero", "append"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path, fault, read_only, caplog):
    """In every file of the newest checkpoint in turn; what is restored is right, and is never another state."""
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


@pytest.mark.parametrize("read_only", [True, False])
def test_other_code_is_not_damage(tmp_path, read_only):
    save(tmp_path, [3])
    for change in (jnp.zeros((50, 41)), jnp.zeros((50, 40), jnp.bfloat16)):
        params = {**STATE.params, "a": change}
        other = jax.eval_shape(lambda: {**ITEMS, "state": STATE._replace(params=params)})  # noqa: B023
        with pytest.raises(
            InputError, match=r"checkpoint 3 was written by other code: state/params/a is float32\[50, 40\]"
        ):
            restore(tmp_path, other, read_only=read_only)
    assert equal(restore(tmp_path)[0], ITEMS)


def test_saving_goes_on_after_a_damaged_one(tmp_path):
    save(tmp_path, [1, 5])
    for path in (tmp_path / "5").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(ABSTRACT)[1] == {"size": 1}
        checkpoints.save(3, ITEMS, {"size": 3})
    assert restore(tmp_path)[1] == {"size": 3}
    np.testing.assert_array_equal(restore(tmp_path)[0]["state"].step, 3)
