import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import equal, new_key
from jaxae.core.batch import Layout
from jaxae.core.step import descend
from jaxae.core.types import Examples, State
from jaxae.devices.plan import compile, plan
from jaxae.training import epoch

ONE = plan("auto", 4, 1, jax.devices()[:1])
DATA = Examples(jax.random.randint(new_key(), (10, 6), 0, 256).astype(jnp.uint8), jnp.arange(10))


def loss(variables, batch, key):
    off = variables["params"]["a"] - batch.x - 0.1 * batch.noise(key, (2, 3))
    return {"loss": jnp.sum(off**2, axis=(1, 2)), "count": jnp.ones(len(batch.x))}, {}


TRANSITION = descend(loss, optax.adam(0.1))


def start():
    params = {"a": jnp.zeros((1, 2, 3))}
    return State(jnp.int32(0), params, TRANSITION.init(params), {})


TOTALS = epoch.no_totals(["loss", "count"])
SEEDED = (True, True, False, True, True, False, False)
TRAIN = compile(lambda per_device, layout: epoch.train(TRANSITION, (2, 3), 4, per_device, layout), ONE, SEEDED)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.data(), st.integers(0, 9))
def test_every_epoch_is_a_permutation(examples, data, seed):
    """The concatenated batches of all steps are one permutation of the examples after another."""
    size = data.draw(st.integers(1, examples))
    stream = []
    for e in range(4):
        order = epoch.order(seed, e, examples, size)
        first, end = (epoch.first_step(i, examples, size) for i in (e, e + 1))
        for step in range(first, end):
            begin = step * size - e * examples
            assert 0 <= begin < examples
            stream.extend(order[begin : begin + size])
    for e in range(4):
        assert sorted(stream[e * examples : (e + 1) * examples]) == list(range(examples))


def test_order_depends_on_seed_and_epoch_alone():
    orders = {(s, e): tuple(epoch.order(s, e, 50, 5)[:50]) for s in range(3) for e in range(3)}
    assert len(set(orders.values())) == 9
    assert orders[1, 2] == tuple(epoch.order(1, 2, 50, 5)[:50])


def test_first_step_of_an_epoch_is_its_first_batch():
    assert [epoch.first_step(e, 60_000, 128) for e in (0, 1, 2)] == [0, 469, 938]
    assert epoch.first_step(50, 60_000, 100) == 30_000


def test_compiled_loop_equals_single_steps():
    order = jnp.asarray(epoch.order(0, 0, 10, 4))
    state, totals, finite = TRAIN(start(), TOTALS, DATA, order, new_key(), 0, 3)
    expected, losses = start(), []
    for i in range(3):
        rows = order[4 * i : 4 * i + 4]
        batch = epoch.gather(DATA, rows, jnp.arange(4), jnp.ones(4), jnp.int32(i), (2, 3))
        np.testing.assert_allclose(batch.x, np.asarray(DATA.x)[rows].reshape(4, 2, 3) / 255, rtol=2e-7)
        expected, metrics = TRANSITION.step(expected, batch, jax.random.fold_in(new_key(), i))
        losses.append(metrics["loss"])
    np.testing.assert_allclose(state.params["a"], expected.params["a"], rtol=1e-5)
    np.testing.assert_allclose(totals["sum"]["loss"], sum(losses), rtol=1e-5)
    assert state.step == 3
    assert finite
    assert totals["steps"] == totals["sum"]["count"] == 3
    assert totals["bad"] == {"loss": -1, "count": -1}


def test_dispatches_of_any_size_give_the_same_bits():
    order = jnp.asarray(epoch.order(0, 0, 10, 4))
    whole = TRAIN(start(), TOTALS, DATA, order, new_key(), 0, 3)
    first = TRAIN(start(), TOTALS, DATA, order, new_key(), 0, 1)
    second = TRAIN(first[0], first[1], DATA, order, new_key(), 4, 2)
    assert equal(whole, second)


def test_compensated_sum_of_a_million_steps_is_accurate_to_the_last_digit():
    """A plain sum in float32 is off by 1 %."""
    count, values = 1_000_000, {"loss": jnp.float32(100.1), "small": jnp.float32(1e-3)}

    def sums(step):
        zero = jax.tree.map(jnp.zeros_like, values)
        return jax.jit(lambda: jax.lax.fori_loop(0, count, lambda _, carry: step(*carry), (zero, zero)))()[0]

    found = sums(lambda total, error: epoch.compensated(total, error, values))
    for name, value in values.items():
        np.testing.assert_allclose(found[name], count * np.float64(value), rtol=2**-23)
    plain = sums(lambda total, error: (jax.tree.map(jnp.add, total, values), error))
    assert abs(plain["loss"] / (count * 100.1) - 1) > 0.005


@pytest.mark.parametrize("large", [2.0**24, -(2.0**24)])
def test_totals_of_a_long_epoch_count_every_step(large):
    """A metric of 1 is half of the spacing of floating-point numbers at a sum of 2^24, which a plain sum rounds off."""
    order, totals = (
        jnp.asarray(epoch.order(0, 0, 10, 4)),
        {**TOTALS, "sum": {**TOTALS["sum"], "count": jnp.float32(large)}},
    )
    _, totals, _ = TRAIN(start(), totals, DATA, order, new_key(), 0, 3)
    assert float(totals["sum"]["count"]) + float(totals["sum_error"]["count"]) == large + 3


def test_compensated_sum_supports_values_above_the_total():
    total = error = {"loss": jnp.float32(0)}
    for value in (1.0, 1e8, 1.0):
        total, error = jax.jit(epoch.compensated)(total, error, {"loss": jnp.float32(value)})
    assert float(total["loss"]) + float(error["loss"]) == 1e8 + 2


def test_first_non_finite_step_is_recorded():
    def breaks(variables, batch, key):
        a = variables["params"]["a"]
        return {"loss": batch.repeat(jnp.sum(a**2)), "late": batch.repeat(jnp.log(2.5 - a[0]))}, {}

    transition = descend(breaks, optax.sgd(-0.5))  # doubles a at every step: 1, 2, 4
    train = compile(lambda per_device, layout: epoch.train(transition, (2, 3), 4, per_device, layout), ONE, SEEDED)
    params = {"a": jnp.ones(1)}
    state = State(jnp.int32(5), params, transition.init(params), {})
    totals = epoch.no_totals(["loss", "late"])
    _, totals, finite = train(state, totals, DATA, jnp.arange(10), new_key(), 0, 4)
    assert totals["bad"] == {"loss": -1, "late": 7}
    assert not finite  # the sum of `late` is not finite
    state = state._replace(params={"a": jnp.full(1, jnp.nan)})
    assert not train(state, totals, DATA, jnp.arange(10), new_key(), 0, 1)[2]


def test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_size():
    def measure(size):
        make = lambda per_device, layout: epoch.evaluate(loss, (2, 3), size, per_device, layout)  # noqa: E731
        return compile(make, ONE, (True, False, True))(start(), DATA, new_key())

    batch = epoch.gather(DATA, jnp.arange(10), jnp.arange(10), jnp.ones(10), jnp.int32(0), (2, 3))
    exact = np.mean(loss(start().variables, batch, new_key())[0]["loss"])
    for size in (1, 3, 4, 10):
        np.testing.assert_allclose(measure(size)["loss"], exact, rtol=1e-5)
        np.testing.assert_allclose(measure(size)["count"], 1, rtol=1e-6)


def test_evaluation_of_many_batches_has_no_drift():
    """The plain sum of these losses in float32 is off by 2e-4 of its size."""
    data = Examples(jnp.zeros((20_000, 1), jnp.uint8), jnp.zeros(20_000, jnp.int32))

    def constant(variables, batch, key):
        return {"loss": batch.repeat(jnp.float32(100.1))}, {}

    measure = jax.jit(epoch.evaluate(constant, (1,), 1, lambda x: x, Layout()))
    np.testing.assert_allclose(measure(start(), data, new_key())["loss"], 100.1, rtol=2e-7)


def test_loss_receives_training_flag_step_and_layout():
    """Training and evaluation at step 5: schedules have the same value in both."""
    seen = []

    def watch(variables, batch, key):
        seen.append((batch.training, batch.layout))
        step = batch.repeat(batch.step.astype(jnp.float32))
        return {"loss": step + batch.repeat(jnp.sum(variables["params"]["a"]))}, {}

    transition = descend(watch, optax.sgd(0.0))
    params = {"a": jnp.zeros(1)}
    state = State(jnp.int32(5), params, transition.init(params), {})
    for layout, inner in ((Layout(), Layout()), (Layout(microbatches=2), Layout(partial=True))):
        seen.clear()
        train = jax.jit(epoch.train(transition, (2, 3), 4, lambda x: x, layout))
        _, totals, _ = train(state, epoch.no_totals(["loss"]), DATA, jnp.arange(10), new_key(), 0, 2)
        assert totals["sum"]["loss"] == 5 + 6
        assert set(seen) == {(True, inner)}
        seen.clear()
        evaluate = jax.jit(epoch.evaluate(watch, (2, 3), 4, lambda x: x, layout))
        assert evaluate(state, DATA, new_key())["loss"] == 5
        assert set(seen) == {(False, inner)}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_gather_scales_bytes_and_leaves_numbers(dtype):
    values = np.arange(24).reshape(4, 6)
    data = Examples(jnp.asarray(values, dtype), jnp.arange(4) + 7)
    batch = epoch.gather(data, jnp.array([3, 1]), jnp.arange(2), jnp.ones(2), jnp.int32(0), (2, 3))
    expected = values[[3, 1]].reshape(2, 2, 3) / (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose(batch.x, expected, rtol=1e-6)
    assert batch.y.tolist() == [10, 8]
    assert batch.observed is None


def test_gather_gives_sequences_the_mask_of_their_steps():
    data = Examples(jnp.zeros((3, 8)), jnp.zeros(3, jnp.int32), jnp.array([4, 1, 3]))
    batch = epoch.gather(data, jnp.array([2, 0, 1]), jnp.arange(3), jnp.ones(3), jnp.int32(0), (4, 2))
    assert batch.observed.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
