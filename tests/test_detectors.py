"""`scripts/anomalies.py` on small sets: its rows, metrics, times and tables."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from conftest import script

anomalies = script("anomalies")
RNG = np.random.default_rng(0)
OUTLIERS = {3, 4, 17, 30}  # rows of the set below
OPTIONS = SimpleNamespace(seeds=3)


@pytest.fixture
def folder(tmp_path):
    """A set of 40 rows whose first entry is their number, and a stream whose values are the numbers of its points."""
    for name in ("anomalies", "series"):
        (tmp_path / name).mkdir()
    x = np.stack([np.arange(40), RNG.normal(size=40)], axis=1)
    np.savez(tmp_path / "anomalies" / "made.npz", x=x, y=np.where(np.isin(np.arange(40), [*OUTLIERS]), 2, 1))
    (tmp_path / "anomalies" / "sets.json").write_text(json.dumps({"made": {"outlier": 2}}))
    np.savez(tmp_path / "series" / "made-train.npz", x=np.arange(75.0)[:, None])
    anomaly = np.isin(np.arange(100), [5, 6, 80, 81, 95])
    np.savez(tmp_path / "series" / "made-test.npz", x=np.arange(1000.0, 1100)[:, None], anomaly=anomaly)
    return tmp_path


def line(name, **values):
    return {"protocol": "contaminated", "detector": "PCA", "set": name, **values}


def numbers(rows):
    return {*rows[:, 0].astype(int)}


def test_novelty_trains_on_half_of_the_normal_rows_and_scores_all_others(folder):
    (every,) = anomalies.problems(folder, "novelty", None, 3)
    for problem in every:
        train, test = numbers(problem.train), numbers(problem.test)
        assert not train & OUTLIERS
        assert not train & test
        assert train | test == {*range(40)}
        assert len(train) == 18
        assert {n for n, label in zip(problem.test[:, 0], problem.labels, strict=True) if label} == OUTLIERS
    assert len({frozenset(numbers(problem.train)) for problem in every}) == 3
    (again,) = anomalies.problems(folder, "novelty", ["made"], 1)
    np.testing.assert_array_equal(again[0].train, every[0].train)


def test_contaminated_trains_on_all_rows_and_scores_them(folder):
    ((problem,),) = anomalies.problems(folder, "contaminated", ["made"], 3)
    np.testing.assert_array_equal(problem.train[:, 0], np.arange(40))
    np.testing.assert_array_equal(problem.test, problem.train)
    assert {*np.flatnonzero(problem.labels)} == OUTLIERS


def test_stream_is_scored_from_its_first_point_by_the_mean_over_windows(folder, monkeypatch):
    monkeypatch.setitem(anomalies.STREAMS, "made", 70)
    ((problem,),) = anomalies.problems(folder, "streams", ["made"], 3)
    np.testing.assert_array_equal(problem.train[:, 0], [0, 4, 8, 11])  # the last window ends with the stream
    np.testing.assert_array_equal(problem.train[2], np.arange(8, 72))
    np.testing.assert_array_equal(problem.test, np.arange(1000, 1064)[None] + np.arange(37)[:, None])
    assert problem.first == 70
    scores = RNG.normal(size=37)
    points = [np.mean([scores[w] for w in range(37) if w <= t < w + 64]) for t in range(70, 100)]
    labels = np.isin(np.arange(70, 100), [80, 81, 95])
    found = anomalies.metrics(problem, scores)
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, points))
    assert found["ap"] == pytest.approx(average_precision_score(labels, points))
    alarms = np.array(points) > np.max(np.array(points)[~labels])
    assert found["recall"] == np.mean([alarms[10:12].any(), alarms[25]])


def test_metrics_of_rows_are_those_of_their_definitions():
    labels, scores = np.array([0, 1, 0, 1, 1, 0, 0, 0]), np.array([0.1, 0.9, 0.4, 0.4, 0.3, 0.2, 0.95, 0.0])
    found = anomalies.metrics(anomalies.Problem("made", scores[:, None], scores[:, None], labels), scores)
    u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert found == {
        "auroc": pytest.approx(u / 15),
        "ap": pytest.approx((1 / 2 + 2 / 4 + 3 / 5) / 3),  # two equal scores at the second outlier
    }


def test_seconds_per_model_compare_ensembles_with_single_models(folder, monkeypatch):
    """Every call takes six seconds; each model but the first of a call scores a normal row highest."""
    asked = []

    def scored(name, problem, seeds, first, options):
        asked.append((name, seeds, first))
        scores = np.repeat(problem.labels[None] + 0.011 * np.arange(len(problem.labels)), seeds, axis=0)
        scores[1:, 0] = 100
        return scores, 6.0

    monkeypatch.setattr(anomalies, "scored", scored)
    (novelty,) = anomalies.problems(folder, "novelty", None, 3)
    ours, theirs = (anomalies.measured(name, novelty, OPTIONS) for name in ("outliers", "PCA"))
    assert asked == [*(("outliers", 3, seed) for seed in range(3)), *(("PCA", 1, seed) for seed in range(3))]
    assert [(of["models"], of["seconds"], of["seconds_per_model"]) for of in (ours, theirs)] == [(9, 18, 2), (3, 18, 6)]
    assert ours["auroc"] == theirs["auroc"] == [1, 1, 1]  # of the first model of each seed
    assert len(ours["ensemble_auroc"]) == 3
    assert max(ours["ensemble_auroc"]) < 1
    assert "ensemble_auroc" not in theirs
    ((problem,),) = anomalies.problems(folder, "contaminated", ["made"], 3)
    both = [anomalies.measured(name, [problem], OPTIONS) for name in ("outliers", "PCA")]
    assert asked[6:] == [("outliers", 3, 0), ("PCA", 3, 0)]
    assert [(of["models"], of["seconds_per_model"]) for of in both] == [(3, 2), (3, 2)]
    assert both[0]["auroc"][0] > both[0]["auroc"][1] == both[0]["auroc"][2]
    assert (both[0]["rows"], both[0]["distinct"], len(both[0]["ensemble_auroc"])) == (40, 40, 1)


def test_experiment_receives_the_training_rows_without_labels_for_at_least_its_steps(folder, monkeypatch):
    fitted = {}

    def fit(name, x, **options):
        fitted.update(options, name=name, x=x)
        return SimpleNamespace(score=lambda x, by: np.stack([x[:, 0], -x[:, 0]]))

    monkeypatch.setattr(anomalies.jaxae, "fit", fit)
    (every,) = anomalies.problems(folder, "novelty", None, 2)
    found, seconds = anomalies.scored("deep_svdd", every[1], 2, 1, OPTIONS)
    np.testing.assert_array_equal(fitted["x"], every[1].train.astype(np.float32))
    assert [fitted[key] for key in ("name", "test", "seed", "seeds", "batch_size")] == ["deep_svdd", 0, 1, 2, 128]
    assert 1000 <= fitted["epochs"] * 18 / 128 < 1001
    np.testing.assert_array_equal(found, [every[1].test[:, 0], -every[1].test[:, 0]])
    assert seconds > 0


def test_total_is_the_mean_over_sets_with_the_deviation_over_seeds_of_that_mean():
    assert anomalies.total([[0.1, 0.3], [0.5, 0.9]], "auroc") == "0.450 ± 0.212"
    assert anomalies.total([[0.25], [0.5]], "ensemble_auroc") == "0.375"
    assert anomalies.total([[0.1, 0.3], None], "auroc") == ""
    assert anomalies.total([4, 8], "distinct") == anomalies.total([4, 8], "models") == ""
    assert (anomalies.total([1.5, 2.25], "seconds"), anomalies.total([1.5, None], "seconds")) == ("3.75", "")


def test_a_second_mean_leaves_out_the_sets_on_which_defaults_were_chosen():
    lines = [line("glass4", auroc=[0.5, 0.7]), line("page-blocks0", auroc=[0.1, 0.1]), line("yeast4", auroc=[0.7, 0.9])]
    text = anomalies.tables(lines)
    assert "| mean | 0.500 ± 0.094 |" in text  # 1.3 / 3 and 1.7 / 3
    assert "| mean without page-blocks0 | 0.700 ± 0.141 |" in text
    assert "without" not in anomalies.tables(lines[::2])
    assert "without" not in anomalies.tables(lines[1:2])
    assert len({*anomalies.IMBALANCED} - {*anomalies.CHOSEN}) == 8
