"""Linear probe: logistic regression on codes."""

import warnings

import numpy as np

from jaxae.data import Dataset
from jaxae.training.trained import Trained

ITERATIONS = 100


def measure(model: Trained, dataset: Dataset, iterations: int = ITERATIONS) -> dict[str, float]:
    """`error` of a linear probe on the model's codes."""
    train, test = (np.asarray(model.encode(split)) for split in (dataset.train, dataset.test))
    return {"error": error(dataset, train, test, iterations)}


def error(dataset: Dataset, train: np.ndarray, test: np.ndarray, iterations: int = ITERATIONS) -> float:
    """Test error in percent of logistic regression on these features of the two splits, [N, ...] each.

    Features are standardised; examples without a class are left out. iterations: the maximum for the optimizer.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=iterations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an unconverged fit is accurate enough
        classifier.fit(*_with_class(train, dataset.train.y))
    features, y = _with_class(test, dataset.test.y)
    return 100 * float(np.mean(classifier.predict(features) != y))


def _with_class(features: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return features.reshape(len(features), -1)[y >= 0].astype(np.float32), y[y >= 0]
