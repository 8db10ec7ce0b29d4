"""Deep SVDD: an encoder without biases maps the data close to a fixed centre; the distance to it is an anomaly score.

Group: anomalies
Source: Ruff et al. 2018, one-class Deep SVDD (equation 4), with dense layers in place of their convolutions. The centre
is the mean code after pretraining as an autoencoder, with magnitudes of at least 0.1, as in the authors' code.
Published: AUROC 0.948 of one digit of MNIST against the others, mean over digits (Ruff et al. 2018, table 1).
Command: jaxae deep_svdd --data mnist --seeds 3
"""

from dataclasses import dataclass

import flax.linen as nn
import numpy as np

from jaxae import run
from jaxae.core.step import descend, phases
from jaxae.training.epoch import first_step
from jaxae.variants import autoencoder, deep_svdd

EXAMPLES = 10_000  # at most; the centre is the mean of their codes


@dataclass(frozen=True)
class Config(run.Config):
    """784-128-32, leaky ReLU, Adam with an L2 penalty."""

    batch_size: int = 200
    lr: float = 1e-4
    weight_decay: float = 1e-6
    hidden: tuple[int, ...] = (128,)
    """Widths of the encoder's hidden layers; the decoder, for pretraining only, mirrors them."""
    latent: int = 32
    """Number of latent dimensions."""
    pretrain: int = 10
    """Epochs of pretraining as an autoencoder, on the squared error; the remaining epochs, after a step that computes
    the centre, minimise the distance to it."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    if config.pretrain >= config.epochs:
        raise ValueError(f"pretrain={config.pretrain} must be below epochs={config.epochs}")
    model = deep_svdd.DeepSVDD(
        *deep_svdd.dense(
            info.shape, config.hidden, config.latent, activation=nn.leaky_relu, precision=config.precision
        ),
        output=autoencoder.output(info),
        latent=config.latent,
    )
    first, last = (first_step(n, info.train, config.batch_size) for n in (config.pretrain, config.epochs))
    before, after = (run.optimizer(config, info, steps=n) for n in (first, last - first))
    loss = deep_svdd.loss(model)
    # A loaded model has no examples, and does not need them, since its centre is saved.
    examples = np.zeros((1, *info.shape), np.float32) if info.examples is None else info.examples(EXAMPLES)
    pretraining = [(first, descend(autoencoder.loss(model, "mse"), before))] if config.pretrain else []
    train = phases(
        *pretraining, (1, deep_svdd.centre(model, examples)), (last - first, descend(loss, after, wrt=("encoder",)))
    )
    return run.Experiment(model, train, loss, unit="per {example}")


if __name__ == "__main__":
    run.main(Config, build)
