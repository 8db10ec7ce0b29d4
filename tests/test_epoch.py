import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import equal, new_key
from jaxae import epoch
from jaxae.batch import mean, noise
from jaxae.parallel import compile, plan
from jaxae.step import descend
from jaxae.types import Examples, State

ONE = plan("auto", 4, 1, jax.devices()[:1])
DATA = Examples(jax.random.randint(new_key(), (10, 6), 0, 256).astype(jnp.uint8), jnp.arange(10))


def loss(params, extra, batch, key):
    value = mean(jnp.sum((params["a"] - batch.x - 0.1 * noise(key, batch, (2, 3))) ** 2, axis=(1, 2)), batch)
    return value, (extra, {"loss": value, "count": mean(jnp.ones(len(batch.x)), batch)})


TRANSITION = descend(loss, optax.adam(0.1))


def start():
    params = {"a": jnp.zeros((1, 2, 3))}
    return State(jnp.int32(0), params, TRANSITION.init(params), {})


TOTALS = epoch.no_totals(["loss", "count"])
TRAIN = compile(
    lambda share: epoch.train(TRANSITION, (2, 3), 4, share), ONE, (True, True, False, True, True, False, False)
)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.data(), st.integers(0, 9))
def test_every_epoch_is_a_permutation(examples, data, seed):
    """Laid end to end, the batches of all steps run through one permutation of the examples after another."""
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


def test_number_of_steps():
    assert [epoch.first_step(e, 60_000, 128) for e in (0, 1, 2)] == [0, 469, 938]
    assert epoch.first_step(50, 60_000, 100) == 30_000


def test_loop_is_the_steps_one_after_another():
    order = jnp.asarray(epoch.order(0, 0, 10, 4))
    state, totals, finite = TRAIN(start(), TOTALS, DATA, order, new_key(), 0, 3)
    expected, losses = start(), []
    for i in range(3):
        rows = order[4 * i : 4 * i + 4]
        batch = epoch.gather(DATA, rows, jnp.arange(4), jnp.ones(4), (2, 3))
        np.testing.assert_allclose(batch.x, np.asarray(DATA.x)[rows].reshape(4, 2, 3) / 255, rtol=2e-7)
        expected, metrics = TRANSITION.step(expected, batch, jax.random.fold_in(new_key(), i))
        losses.append(metrics["loss"])
    np.testing.assert_allclose(state.params["a"], expected.params["a"], rtol=1e-5)
    np.testing.assert_allclose(totals["sum"]["loss"], sum(losses), rtol=1e-5)
    assert state.step == 3
    assert finite
    assert totals["bad"] == {"loss": -1, "count": -1}


def test_dispatches_of_any_size_give_the_same_bits():
    order = jnp.asarray(epoch.order(0, 0, 10, 4))
    whole = TRAIN(start(), TOTALS, DATA, order, new_key(), 0, 3)
    first = TRAIN(start(), TOTALS, DATA, order, new_key(), 0, 1)
    second = TRAIN(first[0], first[1], DATA, order, new_key(), 4, 2)
    assert equal(whole, second)


def test_first_step_that_is_not_finite_is_kept():
    def breaks(params, extra, batch, key):
        value = jnp.sum(params["a"] ** 2)
        return value, (extra, {"loss": value, "late": jnp.log(2.5 - params["a"][0])})

    transition = descend(breaks, optax.sgd(-0.5))  # doubles a at every step: 1, 2, 4
    train = compile(lambda share: epoch.train(transition, (2, 3), 4, share), ONE, (True,) * 7)
    params = {"a": jnp.ones(1)}
    state = State(jnp.int32(5), params, transition.init(params), {})
    totals = epoch.no_totals(["loss", "late"])
    _, totals, finite = train(state, totals, DATA, jnp.arange(10), new_key(), 0, 4)
    assert totals["bad"] == {"loss": -1, "late": 7}
    assert not finite  # since the sum of `late` is not
    state = state._replace(params={"a": jnp.full(1, jnp.nan)})
    assert not train(state, totals, DATA, jnp.arange(10), new_key(), 0, 1)[2]


def test_evaluation_is_the_mean_over_all_examples_whatever_the_batch_size():
    def measure(size):
        return compile(lambda share: epoch.evaluate(loss, (2, 3), size, share), ONE, (True, False, True))(
            start(), DATA, new_key()
        )

    batch = epoch.gather(DATA, jnp.arange(10), jnp.arange(10), jnp.ones(10), (2, 3))
    exact = loss(start().params, {}, batch, new_key())[0]
    for size in (1, 3, 4, 10):
        np.testing.assert_allclose(measure(size)["loss"], exact, rtol=1e-5)
        np.testing.assert_allclose(measure(size)["count"], 1, rtol=1e-6)
