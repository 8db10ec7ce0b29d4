"""How well a linear classifier reads the classes from the codes of finished runs: python scripts/probe.py RUN ...

Logistic regression, as scikit-learn has it, on the codes of the training split, each unit of mean 0 and variance 1; its
error on the test split, with several seeds the mean and standard deviation over them, and that of the same classifier
on the pixels, in percent. For such errors on MNIST, of codes of 1,000 units, see the table of unsupervised features of
Makhzani & Frey 2013.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import numpy as np

from jaxae import run
from jaxae.data import Dataset, binary
from jaxae.errors import InputError
from jaxae.measure import measures
from jaxae.report import html
from jaxae.run import directory
from jaxae.training.trained import Trained

ITERATIONS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run directories")
    parser.add_argument("--iterations", type=int, default=ITERATIONS, help="of the optimizer, at most")
    options = parser.parse_args()
    pixels: dict[str, float] = {}  # by the data's fingerprint
    try:
        for path in options.runs:
            every, dataset, _, title = run.finished(path)
            config = directory.read(path / "config.json")["config"]
            dataset = binary.seen(dataset, config["binarize"])
            if not dataset.classes:
                raise InputError(f"{path}: its data has no classes")
            data = dataset.fingerprint()
            if data not in pixels:
                pixels[data] = error(dataset, dataset.train.x, dataset.test.x, options.iterations)
            models = [every[i] for i in range(len(every))]
            found = html.figure(
                measures.of_seeds(partial(measure, iterations=options.iterations), models, dataset)["error"]
            )
            print(f"{path}: {title}: error from codes {found} %, from pixels {pixels[data]:.4g} %", flush=True)
    except InputError as problem:
        parser.exit(2, f"error: {problem}\n")


def measure(model: Trained, dataset: Dataset, iterations: int = ITERATIONS) -> dict[str, float]:
    """`error` of the model's codes."""
    codes = (np.asarray(model.encode(split.x, split.lengths)) for split in (dataset.train, dataset.test))
    return {"error": error(dataset, *codes, iterations)}


def error(dataset: Dataset, train: np.ndarray, test: np.ndarray, iterations: int = ITERATIONS) -> float:
    """Test error in percent of logistic regression on these features of the two splits, [N, ...] each."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # to stop early is as good
        classifier.fit(train.reshape(len(train), -1).astype(np.float32), dataset.train.y)
    return 100 * float(np.mean(classifier.predict(test.reshape(len(test), -1).astype(np.float32)) != dataset.test.y))


if __name__ == "__main__":
    main()
