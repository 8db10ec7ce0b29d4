"""The ladder variational autoencoder.

Group: variational
Source: Sonderby, Raiko, Maaloe, Sonderby & Winther 2016, five layers, leaky rectifiers, KL warm-up over 200 epochs,
dynamic binarization; without their batch norm.
Published: log-likelihood -81.74 nats with batch norm, fine-tuned with several importance samples (Sonderby et al.
2016).
Command: jaxae ladder --data mnist --log-likelihood-samples 5000
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import flax.linen as nn

from jaxae import run
from jaxae.run import variational
from jaxae.variants import ladder

LEAKY = partial(nn.leaky_relu, negative_slope=0.1)


@dataclass(frozen=True)
class Config(variational.Layered, run.Config):
    """Layers of 64, 32, 16, 8 and 4 latent dimensions between dense layers of 512 to 64, Adam, dynamic binarization."""

    binarize: Literal["none", "static", "dynamic"] = "dynamic"
    epochs: int = 2000
    batch_size: int = 256
    hidden: tuple[int, ...] = (512, 256, 128, 64, 64)
    """Width of the two dense layers below each latent layer, in the encoder and in the decoder."""
    latent: tuple[int, ...] = (64, 32, 16, 8, 4)  # type: ignore[assignment]
    kl_warmup: float = 200.0


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = ladder.dense(
        info.shape,
        config.hidden,
        config.latent,
        *variational.likelihood(config, info),
        activation=LEAKY,
        precision=config.precision,
    )
    return variational.layered(config, info, model, run.optimizer(config, info))


if __name__ == "__main__":
    run.main(Config, build)
