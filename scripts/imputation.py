"""Impute tables from which large values were removed: the protocol of Ipsen, Mattei & Frellsen 2021, table 1.

In the first half of the columns every value above the mean of its column is removed; models are fitted on the rows that
they impute. The error is the root mean squared error of the removed values, in standard deviations of the complete
columns, with its mean and standard deviation over seeds. `breast` is scikit-learn's copy. In `yeast` only three columns
lose their large values, since the other methods then reach their published errors.

    python scripts/imputation.py --tables ../shared/data/tables --runs runs/imputation
    python scripts/imputation.py --tables ../shared/data/tables --runs runs/imputation --sets red --methods not-miwae

Every result is written into results.json in --runs as soon as it is known, and is not computed again; interrupted
training of our models resumes.
"""

import csv
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

import jaxae
from jaxae.training.records import write_json


class Table(NamedTuple):
    """The file of a table, its columns that are not features, and the published errors."""

    file: str
    left_out: tuple[str, ...]
    published: dict[str, float]
    removed: int = 0  # columns with removed values (0: half of them)


TABLES = {
    "concrete": Table("concrete.csv", ("",), {"not-miwae": 1.12, "mice": 1.70, "forest": 1.76, "mean": 1.85}),
    "red": Table("wine-red.csv", ("quality",), {"not-miwae": 1.07, "mice": 1.68, "forest": 1.64, "mean": 1.83}),
    "white": Table("wine-white.csv", ("quality",), {"not-miwae": 0.99, "mice": 1.41, "forest": 1.63, "mean": 1.74}),
    "yeast": Table("yeast.csv", ("name", "site"), {"not-miwae": 0.77, "mice": 1.72, "forest": 1.66, "mean": 1.69}, 3),
    "breast": Table("", (), {"not-miwae": 0.72, "mice": 1.17, "forest": 1.57, "mean": 1.82}),
}
OURS: dict[str, dict[str, Any]] = {
    "miwae": {"experiment": "miwae"},
    "not-miwae": {"experiment": "not_miwae", "missingness": "self-masking-high"},
    "unknown-sign": {"experiment": "not_miwae", "missingness": "self-masking"},
    "linear": {"experiment": "not_miwae", "missingness": "linear"},
    "agnostic": {"experiment": "not_miwae", "missingness": "agnostic"},
}
OTHERS = ("mean", "neighbours", "mice", "forest")
DETERMINISTIC = ("mean", "neighbours", "mice")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments."""

    runs: Path
    """Folder of results.json and of the runs."""
    tables: Path = Path("../shared/data/tables")
    """Folder of the CSV files."""
    sets: tuple[str, ...] = tuple(TABLES)
    """Tables."""
    methods: tuple[str, ...] = (*OTHERS, "miwae", "not-miwae")
    """Methods: mean, neighbours, mice and forest of scikit-learn; miwae, and not-miwae with the known sign, the
    unknown-sign, linear and agnostic models of missingness."""
    seeds: int = 5
    """Runs of every method that is not deterministic."""
    steps: int = 4000
    """Steps of training; in the source 100,000."""
    lr: float = 3e-3
    """Learning rate; in the source 0.001."""
    likelihood: str = "normal-learned"
    """Likelihood of our models, as --likelihood of an experiment; that of the source is normal-predicted."""
    samples: int = 2000
    """Importance samples of imputation; in the source 10,000."""


def features(table: Table, folder: Path) -> np.ndarray:
    """The features of a table, in its own units."""
    if not table.file:
        from sklearn.datasets import load_breast_cancer

        return np.asarray(load_breast_cancer().data, np.float64)
    with (folder / table.file).open(newline="") as file:
        names, *rows = csv.reader(file)
    left_out = table.left_out if table.left_out[0] else (names[-1],)
    keep = [place for place, name in enumerate(names) if name not in left_out]
    return np.array([[float(row[place]) for place in keep] for row in rows])


def removed(x: np.ndarray, columns: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The standardized table, and a copy without the values above the mean in its first `columns` (0: half)."""
    x = (x - x.mean(0)) / x.std(0)
    columns, missing = columns or x.shape[1] // 2, x.copy()
    missing[:, :columns][x[:, :columns] > 0] = np.nan
    return x, missing


def rmse(x: np.ndarray, missing: np.ndarray, filled: np.ndarray) -> float:
    """Root mean squared error of the removed values."""
    where = np.isnan(missing)
    return float(np.sqrt(np.mean((x[where] - filled[where]) ** 2)))


def imputer(name: str, seed: int) -> Any:
    """An imputer of scikit-learn."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    made: dict[str, Callable[[], Any]] = {
        "mean": SimpleImputer,
        "neighbours": KNNImputer,
        "mice": lambda: IterativeImputer(max_iter=10, random_state=seed),
        "forest": lambda: IterativeImputer(
            RandomForestRegressor(n_estimators=100, n_jobs=2, random_state=seed), random_state=seed
        ),
    }
    return made[name]()


def errors_of_ours(options: Options, name: str, method: str, x: np.ndarray, missing: np.ndarray) -> list[float]:
    """Errors of our model, one for each seed."""
    fields = {**OURS[method]}
    model = jaxae.fit(
        fields.pop("experiment"),
        missing,
        test=0,
        scale="none",
        likelihood=options.likelihood,
        lr=options.lr,
        latent=x.shape[1] - 1,
        epochs=ceil(options.steps * 16 / len(x)),
        seeds=options.seeds,
        workdir=options.runs / f"{name}-{method}",
        checkpoint_every=20,
        figures=False,
        progress=False,
        **fields,
    )
    filled = model.impute(missing, options.samples).x.reshape(-1, *x.shape)
    return [rmse(x, missing, part) for part in filled]


def errors(options: Options, name: str, method: str, done: list[float]) -> list[float]:
    """Errors of the next runs of a method on a table, after those that are done."""
    x, missing = removed(features(TABLES[name], options.tables), TABLES[name].removed)
    if method in OURS:
        return errors_of_ours(options, name, method, x, missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the iterative imputer has not converged after ten rounds
        return [rmse(x, missing, imputer(method, len(done)).fit_transform(missing))]


def table(results: dict[str, dict[str, list[float]]], methods: tuple[str, ...]) -> str:
    """The results in Markdown, with the published ones in parentheses."""

    def cell(name: str, method: str) -> str:
        found, known = results[name].get(method), TABLES[name].published.get(method)
        text = (
            "" if not found else f"{np.mean(found):.3f}" + (f" ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else "")
        )
        return text + (f" ({known:.2f})" if known else "")

    lines = [f"| table | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    return "\n".join(
        [*lines, *(f"| {n} | {' | '.join(cell(n, m) for m in methods)} |" for n in TABLES if n in results)]
    )


def main(options: Options) -> None:
    """Compute the missing results, and print the table."""
    options.runs.mkdir(parents=True, exist_ok=True)
    file = options.runs / "results.json"
    results: dict[str, dict[str, list[float]]] = json.loads(file.read_text()) if file.exists() else {}
    for name in options.sets:
        for method in options.methods:
            done = results.setdefault(name, {}).setdefault(method, [])
            while len(done) < (1 if method in DETERMINISTIC else options.seeds):
                done += errors(options, name, method, done)
                write_json(file, results)
                print(name, method, [round(value, 3) for value in done], flush=True)
    print(table(results, options.methods))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
