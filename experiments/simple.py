"""The simplest autoencoder: one hidden layer.

Source: document 003 (F. Chollet, "Building autoencoders in Keras", 2016): test BCE of 0.10, mean code 7.30.
Command: python -m experiments.simple --data mnist --seeds 3
Measured: test BCE 0.1017 +- 0.0013, mean code 7.438 +- 0.05 over three seeds; 87 s for all on two shared CPU cores.
"""

from dataclasses import dataclass

import flax.linen as nn
import optax

from jaxae import nets, run
from jaxae.core.step import descend
from jaxae.variants import autoencoder


@dataclass(frozen=True)
class Config(run.Config):
    """784-32-784, ReLU code, cross-entropy, Adadelta."""

    batch_size: int = 256
    lr: float = 1.0
    hidden: tuple[int, ...] = ()
    """Widths of the encoder; the decoder mirrors them."""
    latent: int = 32
    """Size of the code."""
    eps: float = 1e-7
    """Adadelta's constant under both roots."""


def network(config: Config, info: run.Info) -> autoencoder.Autoencoder:
    """The model for data of this shape."""
    return autoencoder.Autoencoder(
        encoder=nets.MLP(
            config.hidden, (config.latent,), axes=len(info.shape), final=nn.relu, precision=config.precision
        ),
        decoder=nets.MLP(config.hidden[::-1], info.shape, precision=config.precision),
    )


def adadelta(lr: float, eps: float = 1e-7) -> optax.GradientTransformation:
    """Zeiler 2012, algorithm 1, with the constants of Keras, in which the source trains."""
    return optax.adadelta(lr, rho=0.95, eps=eps)


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = network(config, info)
    loss = autoencoder.loss(model, "bce")
    return run.Experiment(
        model,
        descend(loss, adadelta(config.lr, config.eps)),
        loss,
        expected={"mnist": {"loss": 0.103, "code": (6.6, 8.0)}},
        unit="nats per pixel",
    )


if __name__ == "__main__":
    run.main(Config, build)
