"""InfoVAE: the codes of all images together, not of each, are pressed to the prior.

Source: Zhao, Song & Ermon 2019, which gives no likelihood for this network.
Command: python -m experiments.infovae --data mnist --seeds 3
Measured: see experiments/README.md.
"""

from dataclasses import dataclass
from typing import Literal

import optax

from experiments import vae as plain
from jaxae import run
from jaxae.step import descend
from jaxae.variants import mmd, vae


@dataclass(frozen=True)
class Config(plain.Network):
    """784-500-20-500-784, Adam, each pixel drawn white or black: the network of `binary`."""

    binarize: Literal["none", "static", "dynamic"] = "static"
    epochs: int = 10
    batch_size: int = 128
    hidden: tuple[int, ...] = (500,)
    """Widths of the encoder; the decoder mirrors them."""
    latent: int = 20
    """Size of the code."""
    alpha: float = 1.0
    """The divergence of each code from the prior counts 1 - alpha."""
    discrepancy: float = 1000.0
    """Weight lambda: the discrepancy of all codes from the prior counts alpha + lambda - 1."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(*plain.network(config, info))
    loss = mmd.information(model, config.alpha, config.discrepancy)
    return plain.experiment(config, model, descend(loss, optax.adam(config.lr)))


if __name__ == "__main__":
    run.main(Config, build)
