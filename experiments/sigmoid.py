"""A dense autoencoder with sigmoid activations only, and weights and biases initialised from N(0, 1).

Group: plain
Source: "TensorFlow实现AutoEncoder自编码器" (An autoencoder in TensorFlow), tutorial in Chinese.
Published: no result (TensorFlow tutorial); 0.048 per pixel with a plain implementation.
Command: jaxae sigmoid --data mnist --seeds 3
Measured: test MSE 0.04645 +- 0.0028 per pixel over three seeds; 69 s in total on two shared CPU cores.
"""

from dataclasses import dataclass

import flax.linen as nn

from jaxae import run
from jaxae.core.step import descend
from jaxae.variants import autoencoder


@dataclass(frozen=True)
class Config(run.Config):
    """784-256-128-256-784, squared error, Adam."""

    epochs: int = 10
    batch_size: int = 256
    lr: float = 1e-2
    hidden: tuple[int, ...] = (256,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 128
    """Number of latent dimensions."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = autoencoder.Autoencoder(
        *autoencoder.dense(
            info.shape,
            config.hidden,
            config.latent,
            activation=nn.sigmoid,
            final=nn.sigmoid,
            kernel_init=nn.initializers.normal(1.0),
            bias_init=nn.initializers.normal(1.0),
            precision=config.precision,
        ),
        output=autoencoder.output(info),
    )
    loss = autoencoder.loss(model, "mse")
    return run.Experiment(
        model, descend(loss, run.optimizer(config, info)), loss, expected={"mnist": {"loss": 0.048}}, unit="per {value}"
    )


if __name__ == "__main__":
    run.main(Config, build)
