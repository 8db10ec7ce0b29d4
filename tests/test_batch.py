import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from conftest import batch, equal, new_key
from jaxae.core.batch import AXIS, Layout

MAPPED = Layout(AXIS)
MICROBATCH = Layout(partial=True)


def test_mean_excludes_padding():
    values = jnp.array([1.0, 2.0, 6.0, jnp.pi])
    assert batch(jnp.zeros((4, 1)), weight=[1, 1, 1, 0]).mean(values) == 3
    rows = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(batch(jnp.zeros((4, 1)), weight=[1, 1, 0, 0]).mean(rows), [1, 2])


def test_mean_in_evaluation_excludes_padding():
    assert batch(jnp.zeros((4, 1)), weight=[0, 1, 1, 0], training=False).mean(jnp.array([9.0, 1.0, 4.0, 9.0])) == 2.5


def test_mean_under_pmap_is_over_all_devices_and_so_is_its_gradient():
    """On one device the mapped axis has size 1; `on_devices.py` covers 2 and 8."""

    def value(x):
        here = batch(jnp.zeros((3, 1)), layout=MAPPED)
        assert here.axis == "data"
        return here.mean(x**2)

    x = jnp.array([1.0, 2.0, 3.0])
    value, slope = jax.pmap(jax.value_and_grad(value), axis_name="data")(x[None])
    np.testing.assert_allclose(value, [14 / 3], rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * x[None] / 3, rtol=1e-6)


def test_mean_and_gather_under_pmap_name_the_axis():
    """Outside of pmap the axis name is unbound."""
    here = batch(jnp.zeros((3, 1)), layout=MAPPED)
    for method in (here.mean, here.gather):
        with pytest.raises(NameError, match="unbound axis name"):
            method(here.x)


def test_gather_is_the_global_batch_in_the_order_of_the_examples():
    values = jax.random.normal(new_key(), (4, 2, 3))
    assert equal(batch(jnp.zeros((4, 1))).gather(values), values)
    gathered = jax.pmap(lambda v: batch(jnp.zeros((4, 1)), layout=MAPPED).gather(v), axis_name="data")(values[None])
    assert equal(gathered[0], values)


def test_mean_and_gather_of_a_microbatch_raise():
    part = batch(jnp.zeros((4, 1)), layout=MICROBATCH)
    assert part.axis is None
    for name in ("mean", "gather"):
        line = f"Batch.{name} needs the global batch, not a microbatch; use accumulate=1"
        with pytest.raises(ValueError, match=line):
            getattr(part, name)(part.x)


@pytest.mark.parametrize("layout", [Layout(), MAPPED])
def test_gather_raises_in_evaluation(layout):
    with pytest.raises(ValueError, match="evaluation batches hold padding"):
        batch(jnp.zeros((4, 1)), training=False, layout=layout).gather(jnp.zeros(4))


def test_layout_splits_several_microbatches_and_a_single_ordered_one():
    assert not Layout(AXIS).split
    assert Layout(microbatches=2).split
    assert Layout(AXIS, 1, ordered=True).split


def test_noise_is_a_function_of_the_example_not_of_its_position():
    key, whole = jax.random.key(1), batch(jnp.zeros((6, 1)))
    full = whole.noise(key, (3, 2))
    half = whole.replace(index=whole.index[::-2])
    np.testing.assert_array_equal(half.noise(key, (3, 2)), full[::-2])
    assert len(np.unique(full)) == full.size
    assert not np.any(whole.noise(jax.random.key(2), (3, 2)) == full)


def test_noise_is_standard_normal():
    draws = np.asarray(batch(jnp.zeros((400, 1))).noise(jax.random.key(0), (500,)), np.float64)
    n = draws.size
    assert abs(draws.mean()) < 4 / np.sqrt(n)
    assert abs(draws.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(np.mean(draws[1:] * draws[:-1])) < 4 / np.sqrt(n)


def test_keys_differ_between_examples_and_noise_comes_from_them():
    whole, key = batch(jnp.zeros((5, 1))), new_key()
    keys = whole.keys(key)
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 5
    assert equal(jax.random.normal(keys[3], (2,)), whole.noise(jax.random.clone(key), (2,))[3])


def test_scheduled_evaluates_schedules_at_the_step_and_keeps_numbers():
    half_way = batch(jnp.zeros((4, 1))).replace(step=jnp.int32(3))
    assert half_way.scheduled(optax.linear_schedule(0.0, 2.0, 6)) == 1.0
    assert half_way.scheduled(0.7) == 0.7
    assert batch(jnp.zeros((4, 1))).scheduled(optax.linear_schedule(0.5, 2.0, 6)) == 0.5


def test_mean_of_a_repeated_number_is_the_number():
    whole = batch(jnp.zeros((4, 1)), weight=[1, 1, 1, 0])
    assert equal(whole.repeat(jnp.float32(2.5)), jnp.full(4, 2.5))
    value, slope = jax.value_and_grad(lambda number: whole.mean(whole.repeat(number)))(2.5)
    np.testing.assert_allclose([value, slope], [2.5, 1.0], rtol=1e-6)


def test_static_fields_are_part_of_the_structure():
    """A loss may branch on them; other values are traced again."""
    traced = []

    @jax.jit
    def count(batch):
        traced.append((batch.training, batch.layout))
        return batch.x

    for how in ({}, {"training": False}, {"layout": MAPPED}, {}):
        count(batch(jnp.zeros((4, 1)), **how))
    assert traced == [(True, Layout()), (False, Layout()), (True, MAPPED)]


def test_optional_fields_may_be_missing():
    bare = batch(jnp.zeros((4, 1))).replace(y=None)
    assert bare.observed is bare.y is bare.context is None
    assert jax.jit(lambda b: b.mean(b.x))(bare).shape == (1,)


def test_key_reuse_is_an_error(key_reuse):
    key = jax.random.key(0)
    jax.random.normal(key)
    with pytest.raises(jax.errors.KeyReuseError):
        jax.random.uniform(key)


def test_a_key_of_the_old_type_is_an_error_in_every_test():
    with pytest.raises(ValueError, match="Legacy"):
        jax.random.normal(jax.random.PRNGKey(0))
