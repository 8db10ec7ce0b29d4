"""`digits`: 1,797 handwritten digits from scikit-learn (Alpaydin & Kaynak 1998)."""

import numpy as np

from jaxae.data.cache import cached
from jaxae.data.dataset import Split
from jaxae.data.splits import RawDataset, held_out_mask


def load() -> RawDataset:
    """8x8 images of 17 grey levels, resized to 28x28 (bicubic); a fifth of each class is the test split."""
    return cached("digits 28x28 bicubic, every fifth for the test", _decode)


def _decode() -> RawDataset:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).round().astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC)) for image in small]
    names = tuple(str(digit) for digit in range(10))
    every = Split(np.stack(large)[..., None], digits.target.astype(np.int32))
    test = held_out_mask(every.y, 0.2, seed=None)
    return RawDataset({"train": every.take(~test), "test": every.take(test)}, names)
