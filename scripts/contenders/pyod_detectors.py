"""A detector of PyOD with its own defaults: a process that fits it and writes the scores of every seed.

python scripts/contenders/pyod_detectors.py DETECTOR SEEDS data.npz scores.npz

data.npz: `train` and `test`, [N, D]. scores.npz: `scores` [seeds, N] of the test rows and `seconds` of all fits.
"""

import random
import sys
import time
from typing import Any

import numpy as np


def detector(name: str, seed: int, columns: int) -> Any:
    """A detector of this name, seeded as far as it can be."""
    import torch
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.deep_svdd import DeepSVDD
    from pyod.models.iforest import IForest
    from pyod.models.pca import PCA
    from pyod.models.vae import VAE

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the generator that PyOD uses
    torch.manual_seed(seed)
    make: dict[str, Any] = {
        "AutoEncoder": lambda: AutoEncoder(random_state=seed, verbose=0),
        "VAE": lambda: VAE(random_state=seed, verbose=0),
        "DeepSVDD": lambda: DeepSVDD(n_features=columns, random_state=seed, verbose=0),
        "IForest": lambda: IForest(random_state=seed),
        "PCA": lambda: PCA(random_state=seed),
    }
    return make[name]()


def main(name: str, seeds: int, data: str, out: str) -> None:
    """Fit on the training rows, which are scaled already, and score the test rows."""
    with np.load(data, allow_pickle=False) as arrays:
        train, test = arrays["train"], arrays["test"]
    detector(name, 0, train.shape[1])  # imports
    began = time.perf_counter()
    scores = [detector(name, seed, train.shape[1]).fit(train).decision_function(test) for seed in range(seeds)]
    seconds = time.perf_counter() - began
    np.savez(out, scores=np.stack(scores), seconds=seconds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
