"""A deep autoencoder with a 2-D latent space.

Group: plain
Source: "TensorFlow实现AutoEncoder自编码器" (An autoencoder in TensorFlow), tutorial in Chinese.
Published: no result (TensorFlow tutorial); 0.042 per pixel with a plain implementation.
Command: jaxae planar --data mnist --seeds 3
Measured: test MSE 0.04229 +- 0.0017 per pixel over three seeds; 32 s in total on two shared CPU cores.
"""

from dataclasses import dataclass

import flax.linen as nn

from jaxae import run
from jaxae.core.step import descend
from jaxae.experiments import sigmoid
from jaxae.variants import autoencoder


@dataclass(frozen=True)
class Config(sigmoid.Config):
    """784-128-64-10-2 and back, sigmoids with a linear code, squared error, Adam."""

    hidden: tuple[int, ...] = (128, 64, 10)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 2
    """Number of latent dimensions."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = autoencoder.Autoencoder(
        *autoencoder.dense(
            info.shape,
            config.hidden,
            config.latent,
            activation=nn.sigmoid,
            kernel_init=nn.initializers.truncated_normal(1.0),
            bias_init=nn.initializers.normal(1.0),
            precision=config.precision,
        ),
        output=autoencoder.output(info),
    )
    loss = autoencoder.loss(model, "mse")
    return run.Experiment(
        model,
        descend(loss, run.optimizer(config, info)),
        loss,
        expected={"mnist": {"loss": 0.0425}},
        unit="per {value}",
    )


if __name__ == "__main__":
    run.main(Config, build)
