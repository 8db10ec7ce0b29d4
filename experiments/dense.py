"""A dense autoencoder with 10 latent dimensions.

Group: plain
Source: "Autoencoders", tutorial in Chinese with Keras code (dense and denoising autoencoders on MNIST). Hinton &
Salakhutdinov 2006.
Published: test MSE 0.0194 per pixel ("Autoencoders", Keras tutorial).
Command: jaxae dense --data mnist --seeds 3
Measured: test MSE 0.01905 +- 5.3e-05 per pixel over three seeds; 69 s in total on two shared CPU cores.
"""

from dataclasses import dataclass

import flax.linen as nn

from jaxae import run
from jaxae.core.step import descend
from jaxae.variants import autoencoder


@dataclass(frozen=True)
class Config(run.Config):
    """784-512-128-10-128-512-784, ELU, squared error, Adam."""

    epochs: int = 10
    batch_size: int = 1024
    hidden: tuple[int, ...] = (512, 128)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 10
    """Number of latent dimensions."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = autoencoder.Autoencoder(
        *autoencoder.dense(info.shape, config.hidden, config.latent, activation=nn.elu, precision=config.precision),
        output=autoencoder.output(info),
    )
    loss = autoencoder.loss(model, "mse")
    return run.Experiment(
        model,
        descend(loss, run.optimizer(config, info)),
        loss,
        expected={"mnist": {"loss": 0.0194}},
        unit="per {value}",
    )


if __name__ == "__main__":
    run.main(Config, build)
