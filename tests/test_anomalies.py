"""Anomaly scores against closed forms and NumPy references."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance

import jaxae
from conftest import batch, equal, trained
from jaxae import nets
from jaxae.core.experiment import Experiment
from jaxae.core.step import Transition
from jaxae.core.types import State
from jaxae.measure import anomalies
from jaxae.training import scores, start
from jaxae.variants import deep_svdd, vae
from test_vae import linear_gaussian, wrong_encoder

RNG = np.random.default_rng(0)
NOTHING = Transition(lambda params: (), lambda state, batch, key: (state, {}))


def model_of(model, params, shape):
    return dataclasses.replace(trained(Experiment(model, NOTHING, vae.loss(model)), params, {}, shape), real=True)


def test_p_values_count_the_reference_scores_that_are_at_least_as_large():
    score, reference = RNG.normal(size=(2, 30)), RNG.normal(size=(2, 9))
    score[0, :9] = reference[0]  # ties
    expected = [[(1 + sum(r >= s for r in there)) / 10 for s in row] for row, there in zip(score, reference)]  # noqa: B905
    np.testing.assert_array_equal(anomalies.p_values(score, reference), expected)
    np.testing.assert_array_equal(anomalies.p_values(score[1], reference[1]), expected[1])
    with pytest.raises(ValueError, match="reference has no scores"):
        anomalies.p_values(score[0], np.zeros(0))


def test_p_values_of_exchangeable_scores_are_uniform():
    """P(p <= a) = floor(a (M + 1)) / (M + 1) for distinct scores."""
    drawn = RNG.normal(size=(5_000, 10))
    p = anomalies.p_values(drawn[:, :1], drawn[:, 1:])
    for a in (0.1, 0.35, 0.8):
        assert abs((p <= a).mean() - int(a * 10 + 1e-9) / 10) < 4 * np.sqrt(a * (1 - a) / len(drawn))


def test_ensemble_is_the_mean_or_the_median_of_standardized_scores():
    score, reference = RNG.normal(size=(3, 8)) * [[1], [9], [100]], RNG.normal(2, 5, size=(3, 40))
    reference[2] = 7.0
    scale = [reference[0].std(), reference[1].std(), 1.0]
    standard = [(score[i] - reference[i].mean()) / scale[i] for i in range(3)]
    np.testing.assert_allclose(anomalies.ensemble(score, reference), np.mean(standard, 0))
    np.testing.assert_allclose(anomalies.ensemble(score, reference, "median"), np.median(standard, 0))
    np.testing.assert_allclose(anomalies.ensemble(score), stats.zscore(score, axis=1).mean(0))


def test_point_scores_are_means_over_the_windows_that_contain_the_point():
    starts = anomalies.window_starts(11, 4, 3)
    np.testing.assert_array_equal(starts, [0, 3, 6, 7])
    score = np.array([1.0, 2.0, 4.0, 8.0])
    expected = [
        np.mean([s for s, start in zip(score, starts, strict=True) if start <= t < start + 4]) for t in range(11)
    ]
    np.testing.assert_allclose(anomalies.point_scores(score, starts, 4, 11), expected)
    for wrong, steps in (([0, 5, 6, 7], 11), ([0, 3, 6, 7], 10)):
        with pytest.raises(ValueError, match="do not cover exactly"):
            anomalies.point_scores(score, np.array(wrong), 4, steps)
    with pytest.raises(ValueError, match="a stream of 3 points has no window of 4"):
        anomalies.window_starts(3, 4)


def test_event_recall_allows_one_false_alarm_per_thousand_normal_points():
    anomalous = np.zeros(2_060, bool)
    for first, end in ((100, 120), (500, 520), (2_040, 2_060)):
        anomalous[first:end] = True
    score = np.zeros(2_060)
    score[[0, 1, 2, 3]] = [9, 8, 5, 5]  # two of 2,000 normal points may be above the threshold, which is 5
    score[110], score[510], score[2_059] = 5, 5.5, 30
    assert anomalies.event_recall(score, anomalous) == pytest.approx(2 / 3)
    assert anomalies.event_recall(score, anomalous, 5e-4) == pytest.approx(1 / 3)
    assert anomalies.event_recall(score, anomalous, 0.0) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="marks no point, or every point"):
        anomalies.event_recall(score, np.zeros(2_060, bool))


def test_mahalanobis_against_scikit_learn_and_in_a_subspace():
    reference, codes = RNG.normal(size=(50, 3)) @ RNG.normal(size=(3, 3)) + 2, RNG.normal(size=(7, 3))
    expected = EmpiricalCovariance().fit(reference).mahalanobis(codes) * 49 / 50  # which divides by n
    np.testing.assert_allclose(scores.mahalanobis(codes, reference), expected, rtol=1e-6)
    flat = np.concatenate([reference, np.ones((50, 1))], axis=1)
    np.testing.assert_allclose(
        scores.mahalanobis(np.concatenate([codes, RNG.normal(size=(7, 1))], axis=1), flat), expected, rtol=1e-6
    )
    with pytest.raises(ValueError, match="reference has 1 examples"):
        scores.mahalanobis(codes, reference[:1])


def test_importance_weighted_score_is_the_log_likelihood_under_the_exact_posterior():
    """All weights equal p(x), whatever the noise; so does the bound."""
    model, params, x, _ = linear_gaussian()
    found = model_of(model, params, (4,))
    w = np.asarray(params["decoder"]["Dense_0"]["kernel"], np.float64).T
    offset = np.asarray(params["decoder"]["Dense_0"]["bias"], np.float64)
    exact = -stats.multivariate_normal(offset, w @ w.T + 0.25 * np.eye(4)).logpdf(x)
    for by in ("negative_log_likelihood", "negative_elbo"):
        np.testing.assert_allclose(found.score(x, by, samples=3), exact, rtol=1e-4)


def test_scores_of_a_wrong_posterior_against_an_independent_estimate():
    """The same noise for every example, from the key of seed 0; both bounds are above -log p(x)."""
    model, params, x, _ = wrong_encoder()
    found, samples = model_of(model, params, (4,)), 5
    elbo, nll = (found.score(x, by, samples=samples) for by in ("negative_elbo", "negative_log_likelihood"))
    key = start.keys(range(1), start.TEST)
    encoder, decoder = (jax.tree.map(np.float64, params[name]["Dense_0"]) for name in ("encoder", "decoder"))
    mean, log_scale = np.split(x @ encoder["kernel"] + encoder["bias"], 2, axis=1)
    log_w = []
    for each in jax.random.split(key, samples):
        eps = np.float64(jax.random.normal(each, (1, 1, 2)))[0]
        z = mean + np.exp(log_scale) * eps
        log_x = stats.norm(z @ decoder["kernel"] + decoder["bias"], 0.5).logpdf(x).sum(1)
        log_w.append(log_x + (stats.norm.logpdf(z) - stats.norm(mean, np.exp(log_scale)).logpdf(z)).sum(1))
    np.testing.assert_allclose(elbo, -np.mean(log_w, 0), rtol=1e-4)
    np.testing.assert_allclose(nll, np.log(samples) - logsumexp(log_w, axis=0), rtol=1e-4)
    assert (nll < elbo).all()
    assert equal(found.score(x[::-1], "negative_elbo", samples=samples), elbo[::-1].copy())


def test_reconstruction_error_and_latent_distance_of_a_linear_model():
    model, params, x, _ = linear_gaussian()
    found = model_of(model, params, (4,))
    codes, again = (np.asarray(part, np.float64) for part in (found.encode(x), found.reconstruct(x)))
    np.testing.assert_allclose(found.score(x, "reconstruction_error"), ((x - again) ** 2).mean(1), rtol=1e-4)
    expected = scores.mahalanobis(codes, codes[:20])
    np.testing.assert_allclose(found.score(x, "latent_distance", reference=x[:20]), expected, rtol=1e-4)
    for wrong, given in (("latent_distance", {}), ("loss", {"reference": x[:5]})):
        with pytest.raises(ValueError, match="by=latent_distance needs a reference"):
            found.score(x, wrong, **given)
    with pytest.raises(ValueError, match="by=foo is not a score of this model; use one of kl, latent_distance, loss, "):
        found.score(x, "foo")


def test_reconstruction_error_excludes_missing_entries():
    decoded, x = RNG.normal(size=(2, 5, 3)).astype(np.float32), RNG.normal(size=(5, 3)).astype(np.float32)
    seen = (RNG.random((5, 3)) < 0.6).astype(np.float32)
    seen[0] = 0
    square = (decoded - x[None]) ** 2
    expected = (square * seen[None]).sum(2) / np.maximum(seen.sum(1), 1)[None]
    np.testing.assert_allclose(
        scores.reconstruction_error(True, jnp.asarray(decoded), x, jnp.asarray(seen)), expected, rtol=1e-6
    )


ROWS = RNG.normal(size=(60, 4)).astype(np.float32)


def test_centre_is_the_mean_code_with_entries_of_at_least_a_tenth():
    """The step that computes it changes nothing else; the encoder has no bias."""
    model = deep_svdd.DeepSVDD(*deep_svdd.dense((4,), (6,), 3, activation=nn.leaky_relu), output=nets.linear, latent=3)
    variables = model.init(jax.random.key(1), jnp.asarray(ROWS))
    assert all(layer.keys() == {"kernel"} for layer in variables["params"]["encoder"].values())
    step = deep_svdd.centre(model, ROWS)
    state = State(jnp.int32(0), variables["params"], step.init(variables["params"]), {"centre": variables["centre"]})
    new, metrics = step.step(state, batch(ROWS[:5]), jax.random.key(0))
    first, second = (np.float64(variables["params"]["encoder"][f"Dense_{i}"]["kernel"]) for i in range(2))
    hidden = ROWS @ first
    codes = np.where(hidden < 0, 0.01 * hidden, hidden) @ second
    mean = codes.mean(0)
    expected = np.where(np.abs(mean) < 0.1, np.where(mean < 0, -0.1, 0.1), mean)
    assert 0 < (np.abs(mean) < 0.1).sum() < 3
    np.testing.assert_allclose(new.extra["centre"]["value"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"], ((codes[:5] - expected) ** 2).sum(1).mean(), rtol=1e-4)
    assert equal(new.params, state.params)


SVDD = {
    "pretrain": 1,
    "hidden": (6,),
    "latent": 3,
    "batch_size": 20,
    "test": 0,
    "progress": False,
    "lr": 1e-2,
    "epochs": 4,
}


def test_deep_svdd_has_a_centre_per_seed_and_scores_the_distance_to_it():
    model = jaxae.fit("deep_svdd", ROWS, seeds=2, **SVDD)
    centres = np.asarray(model.extra["centre"]["value"])
    assert not np.allclose(*centres, rtol=0.01)
    for codes, centre, found in zip(np.asarray(model.encode(ROWS)), centres, model.score(ROWS), strict=True):
        np.testing.assert_allclose(found, ((codes - centre[None]) ** 2).sum(1), rtol=1e-4)
        assert codes.std(0).max() > 1e-3  # no collapse
    loss = [line["loss"]["mean"] for line in model.history if line["split"] == "test"]
    assert loss[3] < loss[1]
    with pytest.raises(ValueError, match="pretrain=4 must be below epochs=4"):
        jaxae.fit("deep_svdd", ROWS, **{**SVDD, "pretrain": 4})


@pytest.mark.slow
def test_centre_of_deep_svdd_survives_a_stop_and_equals_that_of_the_seed_alone(tmp_path):
    both = jaxae.fit("deep_svdd", ROWS, seeds=2, **SVDD)
    for epochs in (2, 4):  # resumes after the centre was computed
        one = jaxae.fit("deep_svdd", ROWS, seed=1, workdir=tmp_path, figures=False, **{**SVDD, "epochs": epochs})
    np.testing.assert_allclose(both[1].extra["centre"]["value"], one.extra["centre"]["value"], rtol=1e-4)
    whole = jaxae.fit("deep_svdd", ROWS, seed=1, **SVDD)
    assert equal(whole.extra, one.extra)
    assert equal(whole.params, one.params)


def test_subset_is_a_fixed_half_of_the_columns_that_depends_on_the_key():
    net = nets.Subset(nets.MLP((), (3,)), 0.5)
    x = jnp.asarray(RNG.normal(size=(2, 10)), jnp.float32)
    kept = []
    for seed in range(3):
        found = net.init(jax.random.key(seed), x)
        kept.append(np.asarray(found["columns"]["kept"]))
        dense = found["params"]["net"]["Dense_0"]["kernel"]
        np.testing.assert_allclose(
            net.apply(found, x), (np.asarray(x) * kept[-1][None]) @ np.asarray(dense), rtol=1e-4, atol=1e-5
        )
        assert kept[-1].sum() == 5
    assert len({mask.tobytes() for mask in kept}) == 3
    assert np.asarray(nets.Subset(net.net, 0.01).init(jax.random.key(0), x)["columns"]["kept"]).sum() == 1


@pytest.mark.slow
def test_outliers_of_a_table_score_highest():
    x = RNG.normal(size=(200, 5)).astype(np.float32)
    x[:4] += 12
    model = jaxae.fit("outliers", x, seeds=2, epochs=3, hidden=(8,), batch_size=100, test=0, progress=False)
    assert {*anomalies.ensemble(model.score(x)).argsort()[-4:]} == {0, 1, 2, 3}
    with pytest.raises(ValueError, match=r"columns=0.0 must be above 0"):
        jaxae.fit("outliers", x, columns=0.0, progress=False)
