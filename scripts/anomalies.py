"""Compare anomaly detection on labelled tables and streams with PyOD's detectors, and print tables of the results.

python scripts/anomalies.py DATA contaminated --out results.jsonl           all detectors, on tables
python scripts/anomalies.py DATA novelty --detectors dense IForest --sets wisconsin glass4
python scripts/anomalies.py DATA streams --detectors outliers
python scripts/anomalies.py --table results.jsonl

DATA is a folder with anomalies/ (NAME.npz of x and y, sets.json) or series/. Contaminated: detectors train on all rows,
of which at most 11 % are outliers, and score the same rows. Novelty: they train on half of the normal rows (shuffled by
seed) and score all other rows. Streams: they train on windows of the training stream, and the score of a point is the
mean over the windows that contain it. Labels are used for evaluation only. PyOD's detectors (extra `bench`) have their
default parameters, receive standardized columns, and run with the interpreter --python.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

import jaxae
from jaxae.measure import anomalies

# Experiment -> fields and score. The defaults of `outliers` were chosen on the labels of CHOSEN.
OURS: dict[str, tuple[dict[str, Any], str]] = {
    "outliers": ({}, "loss"),
    "dense": ({"hidden": (512,), "latent": 8, "batch_size": 128}, "reconstruction_error"),
    "deep_svdd": ({"batch_size": 128}, "loss"),
}
STEPS = {"outliers": 300, "dense": 1000, "deep_svdd": 1000}  # of training, rounded up to complete epochs
PYOD = ("AutoEncoder", "VAE", "DeepSVDD", "IForest", "PCA")
CHOSEN = ("magic", "spambase", "twonorm", "ring", "ionosphere", "sonar", "phoneme", "page-blocks0", "wisconsin")
IMBALANCED = (
    "page-blocks0",
    "page-blocks-1-3_vs_4",
    "shuttle-c0-vs-c4",
    "shuttle-2_vs_5",
    "yeast4",
    "yeast6",
    "ecoli4",
    "glass4",
    "vowel0",
)
STREAMS = {"bleeding": 1200, "ecg-made": 0}  # first step that is scored: bleeding-test begins with the training stream
WINDOW = 64  # points
SECONDS = ("seconds", "seconds_per_model")


class Problem(NamedTuple):
    """Rows to train on, and rows or points to score."""

    name: str
    train: np.ndarray  # [N, D]
    test: np.ndarray  # [M, D]
    labels: np.ndarray  # [M], or [T] of a stream; 1 for an anomaly
    first: int = 0  # point that is scored first; the rows of a stream are windows


def main() -> None:
    """Run the detectors on every set, print a line for each, and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the data sets")
    parser.add_argument("protocol", choices=("contaminated", "novelty", "streams"), nargs="?", default="contaminated")
    parser.add_argument("--sets", nargs="+", help="names of sets (default: all of the protocol)")
    parser.add_argument("--detectors", nargs="+", choices=(*OURS, *PYOD), default=["outliers", *PYOD])
    parser.add_argument("--seeds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has PyOD (default: this one)")
    parser.add_argument("--out", type=Path, help="append the results to this file, a line of JSON each")
    parser.add_argument("--table", type=Path, nargs="+", help="only print the tables of such files")
    options = parser.parse_intermixed_args()
    if options.table:
        lines = [json.loads(line) for file in options.table for line in file.read_text().splitlines()]
        print(tables(lines))
        return
    if options.data is None:
        parser.error("DATA is missing: the folder of the data sets")
    lines = []
    for name in options.detectors:
        for every in problems(options.data, options.protocol, options.sets, options.seeds):
            line = {"protocol": options.protocol, "detector": name, **measured(name, every, options)}
            print(json.dumps(line), flush=True)
            lines.append(line)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
    print(tables(lines))


def problems(data: Path, protocol: str, names: list[str] | None, seeds: int) -> Iterator[list[Problem]]:
    """The problem of every set; under the novelty protocol one for each seed."""
    if protocol == "streams":
        yield from ([stream(data / "series", name)] for name in names or STREAMS)
        return
    about = json.loads((data / "anomalies" / "sets.json").read_text())
    for name in names or (IMBALANCED if protocol == "contaminated" else about):
        with np.load(data / "anomalies" / f"{name}.npz", allow_pickle=False) as arrays:
            x, y = arrays["x"], (arrays["y"] == about[name]["outlier"]).astype(int)
        if protocol == "contaminated":
            yield [Problem(name, x, x, y)]
            continue
        yield [halved(name, x, y, seed) for seed in range(seeds)]


def halved(name: str, x: np.ndarray, y: np.ndarray, seed: int) -> Problem:
    """The novelty protocol: train on half of the normal rows, and score all others."""
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(y == 0))
    train, rest = np.split(normal, [len(normal) // 2])
    scored = np.concatenate([rest, np.flatnonzero(y)])
    return Problem(name, x[train], x[scored], y[scored])


def stream(folder: Path, name: str) -> Problem:
    """Windows of a one-dimensional stream; for training, every fourth of them."""
    with np.load(folder / f"{name}-train.npz", allow_pickle=False) as arrays:
        train = arrays["x"][:, 0]
    with np.load(folder / f"{name}-test.npz", allow_pickle=False) as arrays:
        test, labels = arrays["x"][:, 0], arrays["anomaly"]
    before, after = (np.lib.stride_tricks.sliding_window_view(part, WINDOW) for part in (train, test))
    return Problem(name, before[anomalies.window_starts(len(train), WINDOW, 4)], after, labels, STREAMS[name])


def measured(name: str, every: list[Problem], options: argparse.Namespace) -> dict[str, Any]:
    """AUROC and average precision of every seed and of the ensemble, distinct scores, models trained, seconds.

    Under the novelty protocol a PyOD detector trains one model per seed, and an experiment an ensemble of as many
    models per seed; `seconds_per_model` makes them comparable.
    """
    each = [
        scored(name, problem, options.seeds if name in OURS or len(every) == 1 else 1, seed, options)
        for seed, problem in enumerate(every)
    ]
    found, seconds = [scores for scores, _ in each], sum(seconds for _, seconds in each)
    models = sum(len(scores) for scores in found)
    # Under the novelty protocol each seed has its own rows, and the first row of scores is that of the seed itself.
    own = list(found[0]) if len(every) == 1 else [scores[0] for scores in found]
    singles = [metrics(every[min(seed, len(every) - 1)], scores) for seed, scores in enumerate(own)]
    together = [
        metrics(problem, anomalies.ensemble(scores))
        for problem, scores in zip(every, found, strict=True)
        if len(scores) > 1
    ]
    values = {key: [one[key] for one in singles] for key in singles[0]}
    values |= {f"ensemble_{key}": [one[key] for one in together] for key in (together[0] if together else ())}
    return {
        "set": every[0].name,
        "rows": len(every[0].test),
        **{key: [round(value, 4) for value in several] for key, several in values.items()},
        "distinct": min(len(np.unique(scores)) for scores in own),
        "models": models,
        "seconds": round(seconds, 2),
        "seconds_per_model": round(seconds / models, 3),
    }


def scored(
    name: str, problem: Problem, seeds: int, first: int, options: argparse.Namespace
) -> tuple[np.ndarray, float]:
    """Scores of the test rows [seeds, M], and the seconds of training and scoring, with compilation."""
    if name in OURS:
        fields, by = OURS[name]
        began = time.perf_counter()
        train, size = problem.train.astype(np.float32), fields.get("batch_size", 128)
        epochs = -(-STEPS[name] * size // len(train))
        model = jaxae.fit(name, train, test=0, seeds=seeds, seed=first, epochs=epochs, progress=False, **fields)
        found = model.score(problem.test.astype(np.float32), by)
        return found.reshape(seeds, -1), time.perf_counter() - began
    offset, scale = problem.train.mean(0), problem.train.std(0)
    scale = np.where(scale > 1e-12 * np.abs(offset), scale, 1)
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "data.npz", Path(folder) / "scores.npz"
        np.savez(data, train=(problem.train - offset) / scale, test=(problem.test - offset) / scale)
        program = Path(__file__).with_name("contenders") / "pyod_detectors.py"
        subprocess.run([options.python, program, name, str(seeds), data, out], check=True, stdout=subprocess.DEVNULL)
        with np.load(out, allow_pickle=False) as arrays:
            return arrays["scores"], float(arrays["seconds"])


def metrics(problem: Problem, scores: np.ndarray) -> dict[str, float]:
    """AUROC and average precision of rows; for a stream those of points, and the recall of events."""
    labels = problem.labels
    if len(labels) != len(scores):  # windows
        scores = anomalies.point_scores(scores, np.arange(len(scores)), WINDOW, len(labels))
    scores, labels = scores[problem.first :].astype(np.float64), labels[problem.first :]
    found = {
        "auroc": float(roc_auc_score(labels, scores)),
        "ap": float(average_precision_score(labels, scores)),
    }
    if len(problem.labels) != len(problem.test):
        found["recall"] = anomalies.event_recall(scores, labels)
    return found


def tables(lines: list[dict[str, Any]]) -> str:
    """Markdown tables: one for each protocol and metric, a row per set, a column per detector."""
    text = []
    for protocol in dict.fromkeys(line["protocol"] for line in lines):
        own = [line for line in lines if line["protocol"] == protocol]
        detectors, sets = (list(dict.fromkeys(line[key] for line in own)) for key in ("detector", "set"))
        at = {(line["set"], line["detector"]): line for line in own}
        for key in ("auroc", "ensemble_auroc", "ap", "ensemble_ap", "recall", "distinct", "models", *SECONDS):
            if any(key in line for line in own):
                text += [f"\n{protocol}: {key}\n", row(["set", *detectors]), row(["---"] * (len(detectors) + 1))]
                text += [row([name, *(cell(at.get((name, one), {}).get(key)) for one in detectors)]) for name in sets]
                last = [total([at.get((name, one), {}).get(key) for name in sets], key) for one in detectors]
                text.append(row(["sum" if key in SECONDS else "mean", *last]))
                others = [name for name in sets if name not in CHOSEN]
                if key not in ("distinct", "models", *SECONDS) and 0 < len(others) < len(sets):
                    last = [total([at.get((name, one), {}).get(key) for name in others], key) for one in detectors]
                    without = ", ".join(name for name in sets if name in CHOSEN)
                    text.append(row([f"mean without {without}", *last]))
    return "\n".join(text)


def row(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def cell(values: Any) -> str:
    """Mean and standard deviation over seeds."""
    if values is None:
        return ""
    if not isinstance(values, list):
        return f"{values:g}"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def total(values: list[Any], key: str) -> str:
    """Mean over sets and its standard deviation over seeds, or the sum of seconds. Empty if a set lacks a value."""
    if key in ("distinct", "models") or None in values:
        return ""
    return f"{sum(values):.2f}" if key in SECONDS else cell(np.mean(values, axis=0).tolist())


if __name__ == "__main__":
    main()
