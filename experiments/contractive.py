"""A contractive autoencoder: a penalty on the Frobenius norm of the encoder's Jacobian.

Group: regularized
Source: Rifai et al. 2011: the single-layer contractive autoencoder on MNIST, evaluated by the error of classifiers
trained on its codes.
Published: no result for the loss (Rifai et al. 2011).
Command: jaxae contractive --data mnist --seeds 3
Measured: cross-entropy 56.4 +- 0.014 nats per image (loss 64.81 +- 0.06), squared norm of the Jacobian 84.01 +- 0.46
over three seeds; 6 min in total on two shared CPU cores.
"""

from dataclasses import dataclass
from math import prod

import flax.linen as nn

from jaxae import run
from jaxae.core.step import descend
from jaxae.variants import autoencoder, contractive, tied


@dataclass(frozen=True)
class Config(run.Config):
    """784-1000-784, sigmoid code, tied weights, cross-entropy, Adam."""

    epochs: int = 10
    latent: int = 1000
    """Number of latent dimensions."""
    contraction: float = 0.1
    """Weight of the squared Frobenius norm of the code's Jacobian."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = tied.Tied(info.shape, config.latent, nn.sigmoid, autoencoder.output(info), config.precision)
    reconstruction = autoencoder.loss(model, "bce", weight=float(prod(info.shape)))  # the source sums over pixels
    loss = contractive.loss(reconstruction, contractive.norm_of_tied(model), config.contraction)
    return run.Experiment(model, descend(loss, run.optimizer(config, info)), loss)


if __name__ == "__main__":
    run.main(Config, build)
