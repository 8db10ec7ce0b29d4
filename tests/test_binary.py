import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxae
from conftest import batch, call, equal, new_key
from jaxae import data, run
from jaxae.core.step import Transition, binarized
from jaxae.core.types import Info, State
from jaxae.data import binary
from jaxae.errors import Interrupted
from jaxae.experiments import iwae as experiment
from jaxae.experiments import vae


def grey(count=3000):
    """Each image has the same four pixels."""
    x = np.tile(np.array([0, 51, 204, 255], np.uint8).reshape(1, 2, 2, 1), (count, 1, 1, 1))
    return data.Dataset(data.Split(x, np.zeros(count, np.int32)), data.Split(x[:1000], np.zeros(1000, np.int32)), ())


def test_pixels_are_white_with_probability_equal_to_their_grey_value():
    drawn = binary.binarize(grey(), "static")
    for split, count in ((drawn.train, 3000), (drawn.test, 1000)):
        assert set(np.unique(split.x)) == {0, 255}
        share = (split.x == 255).mean(0).ravel()
        assert share[0] == 0
        assert share[3] == 1
        np.testing.assert_allclose(share[1:3], [0.2, 0.8], atol=4 * np.sqrt(0.16 / count))
    assert not np.array_equal(drawn.train.x[:1000], drawn.test.x)


def test_static_binarization_samples_both_splits_and_dynamic_only_the_test_split():
    """Every call gives the same samples."""
    static, dynamic = (binary.binarize(grey(), how) for how in ("static", "dynamic"))
    assert static.fingerprint() == binary.binarize(grey(), "static").fingerprint()
    assert dynamic.train is not static.train
    assert np.array_equal(dynamic.train.x, grey().train.x)
    assert np.array_equal(static.test.x, dynamic.test.x)
    assert binary.binarize(grey(), "none").fingerprint() == grey().fingerprint()
    assert data.load("digits", binarize="static").fingerprint() == data.load("digits", binarize="static").fingerprint()


def test_binarized_floats_stay_floats():
    x = np.random.default_rng(0).random((50, 4, 3), np.float32)
    split = data.Split(x, np.zeros(50, np.int32), np.full(50, 4))
    drawn = binary.binarize(data.Dataset(split, split, ()), "static").train
    assert drawn.x.dtype == np.float32
    assert set(np.unique(drawn.x)) == {0, 1}
    assert drawn.lengths is split.lengths


def test_dynamic_samples_depend_on_step_and_example_alone():
    """The mean of the samples is the grey value."""
    seen = Transition(lambda params: (), lambda state, part, key: (state, {"x": part.x}))
    x = jnp.tile(jnp.array([[0.0, 0.2, 0.8, 1.0]]), (4000, 1))
    state = State(jnp.int32(0), {}, (), {})

    def draw(part, number):
        return binarized(seen).step(state, part, jax.random.fold_in(new_key(), number))[1]["x"]

    first, second = draw(batch(x), 0), draw(batch(x), 1)
    assert set(np.unique(first)) == {0, 1}
    np.testing.assert_allclose(first.mean(0), x[0], atol=4 * np.sqrt(0.16 / 4000))
    assert not equal(first, second)
    assert equal(first, draw(batch(x), 0))
    half = jax.tree.map(lambda a: a[2000:], batch(x).replace(step=None)).replace(step=jnp.int32(0))
    assert equal(first[2000:], draw(half, 0))


def train(workdir, how, stop=lambda _: False, **fields):
    config = vae.Config(
        binarize=how, epochs=2, batch_size=50, hidden=(8,), figures="none", workdir=str(workdir), **fields
    )
    return run.train(config, vae.build, "vae", stop)


def lines(workdir):
    return (workdir / "metrics.jsonl").read_text().splitlines()


@pytest.mark.slow
def test_run_on_binary_images_resumes_bit_exact(tmp_path):
    """Static and dynamic images give different metrics, and config.json records the mode."""
    runs = {how: train(tmp_path / how, how) for how in ("static", "dynamic")}
    assert lines(runs["static"]) != lines(runs["dynamic"])
    count = iter(range(1000))
    with pytest.raises(Interrupted):
        train(tmp_path / "resumed", "dynamic", lambda _: next(count) >= 2)
    assert lines(train(tmp_path / "resumed", "dynamic")) == lines(runs["dynamic"])
    saved = json.loads((runs["dynamic"] / "config.json").read_text())
    assert saved["config"]["binarize"] == "dynamic"
    assert "--binarize dynamic" in saved["command"]
    assert saved["data"]["fingerprint"] == data.load("digits", binarize="dynamic").fingerprint()
    assert run.dataset(runs["static"], json.loads((runs["static"] / "config.json").read_text())).train.x.max() == 255
    assert equal(jaxae.load(runs["static"]).params, run.load_finished(runs["static"])[0].params)


def test_decoder_bias_starts_at_the_mean_image():
    """The bias is the logit of the mean image, so that the initial mean of p(x|z) is the mean image."""
    digits = data.load("digits", binarize="dynamic")
    config = dataclasses.replace(experiment.Config(), latent=3, hidden=(5,))
    model = experiment.build(config, digits.info).model
    params = model.init(new_key(), jnp.zeros((1, 28, 28, 1)))["params"]
    bias = params["decoder"]["Dense_1"]["bias"]
    expected = np.clip(digits.train.x.mean(0) / 255, 1e-3, 1 - 1e-3).ravel()
    np.testing.assert_allclose(jax.nn.sigmoid(bias), expected, rtol=1e-4)
    assert equal(params["decoder"]["Dense_0"]["bias"], np.zeros(5, np.float32))


def test_learning_rate_decays_in_stages():
    """Burda et al. 2016, section 5: 10^(-i / 7) after 0, 1, 4, 13, 40, 121, 364, 1093 epochs."""
    rate = experiment.stages(experiment.Config(), Info((28, 28, 1), 60_000))
    for i, epoch in enumerate((0, 1, 4, 13, 40, 121, 364, 1093)):
        np.testing.assert_allclose(rate(3000 * epoch + 1), 1e-3 * 10 ** (-i / 7), rtol=1e-4)
        if epoch:
            np.testing.assert_allclose(rate(3000 * epoch - 1), 1e-3 * 10 ** (-(i - 1) / 7), rtol=1e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"log_likelihood_samples": 20}, "log_likelihood_samples=20: grey pixels have no density under a Bernoulli"),
        ({"log_likelihood_samples": 1, "binarize": "static"}, "log_likelihood_samples=1: one sample gives the ELBO"),
        ({"log_likelihood_samples": 1, "likelihood": "normal"}, "log_likelihood_samples=1: one sample gives the ELBO"),
    ],
)
def test_log_likelihood_of_grey_pixels_or_of_one_sample_raises(fields, says):
    with pytest.raises(ValueError, match=says):
        vae.build(vae.Config(**fields), Info((28, 28, 1), 100))


@pytest.mark.parametrize("fields", [{"binarize": "static"}, {"binarize": "dynamic"}, {"likelihood": "normal-learned"}])
def test_log_likelihood_of_binary_pixels_or_a_normal_likelihood_is_measured(fields):
    config = vae.Config(log_likelihood_samples=20, **fields)
    assert vae.build(config, Info((28, 28, 1), 100)).measures.keys() == {"likelihood"}


@pytest.mark.slow
def test_likelihood_command_repeats_the_estimate_of_the_run(tmp_path, capsys):
    """The command prints the estimate of every seed, and writes nothing into the run directory."""
    workdir = train(tmp_path / "run", "static", seeds=2, log_likelihood_samples=20)
    known = json.loads((workdir / "result.json").read_text())["likelihood"]
    before = sorted(workdir.rglob("*"))
    capsys.readouterr()
    assert call("likelihood", workdir, workdir, "--samples", 20) == 0
    found, again = map(json.loads, capsys.readouterr().out.splitlines())
    assert found == again
    assert (found.pop("run"), found.pop("samples")) == ("vae on digits", 20)
    assert found == known
    assert len(found["log_likelihood"]["seeds"]) == 2
    assert call("likelihood", workdir, "--samples", 200) == 0
    more = json.loads(capsys.readouterr().out)
    assert more["log_likelihood"]["mean"] > known["log_likelihood"]["mean"]
    assert more["monte_carlo_error"]["mean"] < known["monte_carlo_error"]["mean"]
    assert sorted(workdir.rglob("*")) == before
    for arguments, says in (
        ((tmp_path,), "config.json"),
        ((workdir, "--samples", 1), "--samples 1 must be at least 2"),
    ):
        assert call("likelihood", *arguments) == 2
        assert says in capsys.readouterr().err
