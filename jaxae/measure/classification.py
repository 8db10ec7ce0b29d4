"""Classification error of a model that infers classes."""

import numpy as np

from jaxae.core.experiment import Classifier, MeasuredData, TrainedModel


def measure(trained: TrainedModel, data: MeasuredData) -> dict[str, float]:
    """`error`: percentage of the test examples with a class whose most probable class is another one.

    Empty for a test split without classes. TypeError for a model without `classify`.
    """
    if not isinstance(trained, Classifier):
        raise TypeError(f"{type(trained).__name__} has no classify(x); pass a model that infers classes, such as m2")
    known = np.flatnonzero(data.test.y >= 0)
    if not len(known):
        return {}
    likely = np.asarray(trained.classify(data.test)).argmax(-1)
    return {"error": 100 * float(np.mean(likely[known] != data.test.y[known]))}
