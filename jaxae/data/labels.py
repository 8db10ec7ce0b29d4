"""Training examples without a class, for semi-supervised models: their class is -1."""

import numpy as np

from jaxae.data.dataset import Dataset
from jaxae.errors import InputError


def keep(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """The data set with the classes of `count` training examples, the same number of each class, chosen by the seed.

    The classes of the other training examples are hidden. If the number of classes does not divide count, the first
    classes have one more. count=0: all classes are kept. InputError for data without classes, and for a class with too
    few examples.
    """
    if not count:
        if seed:
            raise InputError(f"labels_seed={seed} has no effect without labels; set labels=100, or omit it")
        return dataset
    y, classes = dataset.train.y, dataset.classes
    if not classes:
        raise InputError(f"labels={count} has no effect, since the data have no classes; omit it")
    if count < len(classes):
        raise InputError(f"labels={count} must be at least {len(classes)}, one for each class")
    wanted = count // len(classes) + (np.arange(len(classes)) < count % len(classes))
    chosen = np.zeros(len(y), bool)
    order = np.random.default_rng(seed).permutation(len(y))
    for number, (name, least) in enumerate(zip(classes, wanted.tolist(), strict=True)):
        members = order[y[order] == number]
        if len(members) < least:
            raise InputError(
                f"labels={count}: class {name} has {len(members):,} training examples, fewer than {least:,}"
            )
        chosen[members[:least]] = True
    return dataset._replace(train=dataset.train._replace(y=np.where(chosen, y, -1).astype(np.int32)))
