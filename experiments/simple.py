"""The simplest autoencoder: one hidden layer.

Group: plain
Source: F. Chollet, "Building autoencoders in Keras", 2016, in a Chinese translation (keras-autoencoder.md).
Published: BCE 0.10 nats per pixel (0.11 in the English text), mean code 7.30 (Chollet 2016).
Command: jaxae simple --data mnist --seeds 3
Measured: test BCE 0.1024 +- 0.0012 nats per pixel, mean code 7.379 +- 0.051 over three seeds; 144 s in total on two
shared CPU cores. With the epsilon of 1e-7 that Keras has had since 2017: 0.1017 +- 0.0013 and 7.44 +- 0.051.
"""

from dataclasses import dataclass

import flax.linen as nn

from jaxae import run
from jaxae.core.step import descend
from jaxae.training import optimizers
from jaxae.variants import autoencoder


@dataclass(frozen=True)
class Config(run.Config):
    """784-32-784, ReLU code, cross-entropy, Adadelta."""

    batch_size: int = 256
    optimizer: optimizers.Name = "adadelta"
    lr: float = 1.0
    eps: float = 1e-8  # Keras' default in 2016
    hidden: tuple[int, ...] = ()
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 32
    """Number of latent dimensions."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = autoencoder.Autoencoder(
        *autoencoder.dense(info.shape, config.hidden, config.latent, final=nn.relu, precision=config.precision),
        output=autoencoder.output(info),
    )
    loss = autoencoder.loss(model, "bce")
    return run.Experiment(
        model,
        descend(loss, run.optimizer(config, info)),
        loss,
        expected={"mnist": {"loss": 0.103, "code": (6.6, 8.0)}},
        unit=autoencoder.unit("bce", info),
    )


if __name__ == "__main__":
    run.main(Config, build)
