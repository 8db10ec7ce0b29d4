import dataclasses
from functools import cache, partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from conftest import batch, equal, new_key, trained
from jaxae import data, run
from jaxae.core.reduction import gradient
from jaxae.core.types import Examples, Scale
from jaxae.errors import InputError
from jaxae.experiments import sequence as experiment
from jaxae.training.epoch import gather
from jaxae.training.examples import parts
from jaxae.variants import autoencoder, sequence

LENGTHS = (6, 1, 3)


def ragged(lengths=LENGTHS, width=3):
    rng = np.random.default_rng(0)
    return [rng.uniform(size=(n, width)).astype(np.float32) for n in lengths]


def padded(parts, steps, garbage=0):
    """A batch of sequences, padded to T = `steps` with random values."""
    x = np.random.default_rng(garbage).uniform(size=(len(parts), steps, 3)).astype(np.float32)
    mask = np.zeros((len(parts), steps), np.float32)
    for i, part in enumerate(parts):
        x[i, : len(part)], mask[i, : len(part)] = part, 1
    return batch(x, mask=jnp.asarray(mask))


def network(steps):
    """The model for sequences of T = `steps`; its parameters do not depend on T."""
    model = sequence.SequenceAutoencoder((steps, 3), 4, 5)
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(model.init, new_key(), jnp.zeros((1, steps, 3)))["params"]
    return model, jax.tree.map(lambda p: jnp.asarray(rng.uniform(-1, 1, p.shape), jnp.float32), shapes)


@cache
def compiled(steps):
    model, params = network(steps)
    loss = autoencoder.loss(model, "bce", weight=3.0)

    @jax.jit
    def run(given):
        slope, metrics, _ = gradient(lambda p, b: loss({"params": p}, b, new_key()), params, given)
        return metrics, slope, model.apply({"params": params}, given.x, given.observed, method="encode")

    return run


def measure(given):
    """Means of the terms, gradient, and codes."""
    return compiled(given.x.shape[1])(given)


def close(a, b):
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-5, atol=1e-6), a, b)


def test_padding_changes_neither_loss_nor_gradient_nor_code():
    parts = ragged()
    short = measure(padded(parts, 6))
    assert equal(measure(padded(parts, 6, garbage=1)), short)
    close(measure(padded(parts, 9)), short)
    assert not equal(measure(padded(parts[::-1], 6))[2], short[2])


def test_each_sequence_has_the_same_weight_whatever_its_length():
    """Terms and gradient are the means of those of each sequence alone, without padding."""
    parts = ragged()
    metrics, slope, codes = measure(padded(parts, 6))
    alone = [measure(batch(part[None], mask=jnp.ones((1, len(part))))) for part in parts]
    together = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(one[:2] for one in alone))
    close((metrics, slope), together)
    close(codes, np.concatenate([one[2] for one in alone]))


def test_loss_without_a_mask_equals_that_with_a_mask_of_ones():
    x = np.stack(ragged((6, 6)))
    model, params = network(6)
    loss = jax.jit(partial(autoencoder.loss(model, "bce"), {"params": params}))
    close(loss(batch(x), new_key()), loss(batch(x, mask=jnp.ones((2, 6))), new_key()))


def test_loss_against_numpy():
    parts = ragged()
    model, params = network(6)
    given = padded(parts, 6)
    z, logits = jax.jit(model.apply)({"params": params}, given.x, None, None, given.observed)
    terms, updates = jax.jit(autoencoder.loss(model, "bce", weight=3.0))({"params": params}, given, new_key())
    assert updates == {}
    rows = [(expit(np.asarray(out[: len(x)], np.float64)), x) for out, x in zip(logits, parts, strict=True)]
    cross = [-(x * np.log(p) + (1 - x) * np.log(1 - p)) for p, x in rows]
    squared = [(p - x) ** 2 for p, x in rows]
    expected = {
        "loss": [3 * c.mean() for c in cross],
        "bce": [c.mean() for c in cross],
        "reconstruction": [c.sum() for c in cross],
        "mse": [s.mean() for s in squared],
        "rmse": [np.sqrt(s.mean()) for s in squared],
        "code": np.abs(np.asarray(z)).mean(1),
    }
    assert set(terms) == set(expected)
    for name, exact in expected.items():
        np.testing.assert_allclose(terms[name], exact, rtol=1e-5, err_msg=name)


def test_decoder_input_is_the_code_at_every_step():
    model, params = network(6)
    z = jnp.array([[0.5, -0.2, 0.1, 0.9]])
    decoder = jax.tree.map(np.asarray, params["decoder"])
    h = c = np.zeros((1, 5))
    exact = []
    for _ in range(6):
        gates = np.asarray(z) @ decoder["kernel"] + h @ decoder["recurrent"] + decoder["bias"].reshape(1, -1)
        i, f, g, o = np.split(gates, 4, axis=1)
        c = expit(f) * c + expit(i) * np.tanh(g)
        h = expit(o) * np.tanh(c)
        rows = params["rows"]["Dense_0"]
        exact.append(h @ np.asarray(rows["kernel"]) + np.asarray(rows["bias"]))
    logits = model.apply({"params": params}, z, method="logits")
    np.testing.assert_allclose(logits[0], np.concatenate(exact), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.apply({"params": params}, z, method="decode"), expit(logits), rtol=1e-6)


def test_gather_returns_the_mask_of_the_steps():
    x = jnp.arange(4 * 6.0).reshape(4, 6) / 24
    examples = Examples(x, jnp.arange(4), jnp.array([3, 1, 2, 3]))
    step = jnp.int32(7)
    made = gather(examples, jnp.array([2, 0, 1]), jnp.arange(3), jnp.ones(3), step, (3, 2))
    np.testing.assert_array_equal(made.observed, [[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    assert made.observed.dtype == jnp.float32
    np.testing.assert_array_equal(made.x, np.asarray(x).reshape(4, 3, 2)[[2, 0, 1]])
    np.testing.assert_array_equal(made.y, [2, 0, 1])
    whole = examples._replace(lengths=None)
    assert gather(whole, jnp.array([2]), jnp.arange(1), jnp.ones(1), step, (3, 2)).observed is None


def save(folder, *args, **arrays):
    np.savez(folder / "x.npz", *args, **arrays)
    return folder / "x.npz"


def contents(dataset):
    """Class and rows of every sequence, in the order of the splits. Padding must be 0."""
    found = []
    for split in (dataset.train, dataset.test):
        assert split.x.dtype == np.float32
        for x, y, n in zip(*split[:3], strict=True):
            assert not x[n:].any()
            found.append((int(y), x[:n]))
    return found


def same(dataset, expected):
    """Assert that the data set holds exactly these sequences, each once, bit for bit."""
    key = lambda pair: (pair[0], len(pair[1]), pair[1].tobytes())  # noqa: E731
    ours, theirs = sorted(contents(dataset), key=key), sorted(expected, key=key)
    assert len(ours) == len(theirs)
    for (label, x), (other, exact) in zip(ours, theirs, strict=True):
        assert label == other
        np.testing.assert_array_equal(x, exact)


MANY = ragged([1 + i % 7 for i in range(25)])


def test_ragged_arrays_are_read_in_order(tmp_path):
    dataset = data.load(str(save(tmp_path, *MANY)))
    same(dataset, [(-1, part) for part in MANY])  # floats are unchanged; with more than ten, arr_10 comes after arr_9
    assert dataset.shape == (7, 3)
    assert dataset.info[:2] == data.Info((7, 3), 23)[:2]
    assert dataset.classes == ()
    assert (len(dataset.test.x), dataset.kind, dataset.real) == (2, "series", False)


def test_rows_with_lengths_equal_separate_arrays(tmp_path):
    y = np.arange(25) % 3
    rows, lengths = np.concatenate(MANY), np.array([len(part) for part in MANY])
    stacked = data.load(str(save(tmp_path, x=rows, lengths=lengths, y=y)))
    same(stacked, list(zip(y, MANY, strict=True)))
    assert stacked.classes == ("0", "1", "2")
    listed = data.load(str(save(tmp_path, *MANY, y=y)))
    assert listed.fingerprint() == stacked.fingerprint()
    longer = data.load(str(save(tmp_path, *MANY, np.ones((9, 3), np.float32), y=np.append(y, 0))))
    assert longer.shape == (9, 3)


def test_sequences_of_floats_and_of_bytes_become_float32_in_0_1(tmp_path):
    rng = np.random.default_rng(0)
    numbers = [rng.uniform(size=n) for n in (3, 1, 2)]
    same(data.load(str(save(tmp_path, *numbers))), [(-1, part.astype(np.float32)[:, None]) for part in numbers])
    levels = [rng.integers(0, 256, (n, 2), dtype=np.uint8) for n in (3, 1, 2)]
    levels[0][0] = 0, 255
    same(data.load(str(save(tmp_path, *levels))), [(-1, part / np.float32(255)) for part in levels])


def test_fingerprint_depends_on_the_lengths_of_sequences(tmp_path):
    x = np.zeros((6, 3), np.float32)
    made = [data.load(str(save(tmp_path, x=x, lengths=lengths))).fingerprint() for lengths in ([3, 2, 1], [3, 1, 2])]
    assert made[0] != made[1]


ROWS = np.full((6, 3), 0.5)
BAD = {
    "other width": ([ROWS, ROWS[:, :2]], {}, r"all must be \[T, D\] with one D and one dtype"),
    "other type": ([ROWS, ROWS.astype(np.float32)], {}, r"all must be \[T, D\] with one D and one dtype"),
    "images": ([ROWS[None], ROWS[None]], {}, r"np.savez.path, x=x, y=y."),
    "empty": ([ROWS, ROWS[:0]], {}, "sequence 1 is empty; omit it"),
    "empty by length": ([], {"x": ROWS, "lengths": [4, 2, 0]}, "sequence 2 is empty; omit it"),
    "no width": ([ROWS[:, :0], ROWS[:, :0]], {}, "is empty"),
    "complex": ([ROWS.astype(complex), ROWS.astype(complex)], {}, "has values of type complex128; save numbers"),
    "infinite": ([ROWS, np.inf * ROWS], {}, "has infinite values; replace them, by NaN where an entry is missing"),
    "negative length": (
        [],
        {"x": ROWS, "lengths": [7, -1]},
        r"lengths is int64 \(2,\), not the steps of each sequence",
    ),
    "broken length": ([], {"x": ROWS, "lengths": [3.0, 3.0]}, r"lengths is float64 \(2,\), not the steps"),
    "table of lengths": ([], {"x": ROWS, "lengths": [[3, 3]]}, r"lengths is int64 \(1, 2\), not the steps"),
    "lengths of a number": ([], {"x": 0.5, "lengths": [1]}, r"lengths is int64 \(1,\), not the steps"),
    "other sum": ([], {"x": ROWS, "lengths": [3, 2]}, "lengths sum to 5, but x has 6 rows"),
    "no lengths at all": ([], {"x": ROWS[:0], "lengths": np.zeros(0, int)}, "is empty"),
    "no x": ([], {"y": [1, 2]}, "has no training examples .found: y."),
    "nothing": ([], {}, "has no array of examples .found: none."),
    "other number of classes": ([ROWS, ROWS], {"y": [0, 1, 2]}, r"y has shape \(3,\), not \(2,\)"),
    "one": ([], {"x": ROWS, "lengths": [6]}, "1 example: at least 2 are needed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sequences_raise_one_line_errors(tmp_path, case):
    parts, arrays, says = BAD[case]
    with pytest.raises(InputError, match=says) as error:
        data.load(str(save(tmp_path, *parts, **arrays)))
    assert "\n" not in str(error.value)


def test_padding_that_exceeds_memory_raises(tmp_path):
    parts = [np.zeros((1, 1), np.uint8)] * 600 + [np.zeros((1_000_000, 1), np.uint8)]
    with pytest.raises(InputError, match="601 sequences padded to 1,000,000 steps exceed 2 GiB; cut them"):
        data.load(str(save(tmp_path, *parts)))


def test_code_of_a_padded_sequence_with_its_length_is_that_of_the_sequence_alone(tmp_path):
    path = save(tmp_path, *MANY)
    model = trained(
        experiment.build(experiment.Config(latent=4, hidden=5), data.Info((7, 3), 23)), network(7)[1], {}, (7, 3)
    )
    test = data.load(str(path)).test
    codes = model.encode(test.x, test.lengths)
    alone = [model.encode(x[None], np.array([n])) for x, n in zip(test.x, test.lengths, strict=True)]
    close(codes, np.concatenate(alone))
    module = sequence.SequenceAutoencoder((7, 3), 4, 5)
    for x, n, code in zip(test.x, test.lengths, codes, strict=True):
        assert n < 7
        close(module.apply({"params": model.params}, jnp.asarray(x[None, :n]), method="encode")[0], code)
    assert equal(model.reconstruct(test.x, test.lengths), model.decode(codes))
    assert np.all(np.abs(model.encode(test.x) - codes).max(1) > 1e-6)  # without lengths the padding is encoded, too
    full = np.full(len(test.x), 7)
    close(model.encode(test.x, full), model.encode(test.x))


def test_padding_is_0_in_model_units():
    known = experiment.build(experiment.Config(latent=4, hidden=5), data.Info((7, 3), 23))
    scale = Scale(np.array([5.0, -2, 1]), np.array([2.0, 3, 0.5]))
    model = dataclasses.replace(trained(known, network(7)[1], {}, (7, 3)), scale=scale, real=True)
    x = np.array(padded(ragged(), 7).x)
    (part,) = parts(model, x, np.array(LENGTHS))
    expected = (x - scale.offset) / scale.factor * np.asarray(part.steps)[..., None]
    np.testing.assert_allclose(part.x, expected, rtol=1e-6)
    assert np.asarray(part.steps).sum(1).tolist() == [*LENGTHS]
    (alone,) = parts(model, ragged())
    np.testing.assert_array_equal(alone.x, part.x)


@pytest.mark.parametrize("name", ["simple", "tied", "stacked", "vae", "convolutional"])
def test_experiments_for_images_reject_sequences_with_a_one_line_error(tmp_path, name):
    module = import_module(f"jaxae.experiments.{name}")
    config = module.Config(epochs=1, batch_size=8, data=str(save(tmp_path, *MANY)), workdir=str(tmp_path / "run"))
    with pytest.raises(InputError) as error:
        run.train(config, module.build, name)
    assert "\n" not in str(error.value)
