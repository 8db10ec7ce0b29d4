"""DIP-VAE: the codes of all examples are uncorrelated and have variance 1.

Group: disentangled
Source: Kumar, Sattigeri & Balakrishnan 2018: DIP-VAE-I with --covariance means, DIP-VAE-II with samples. The weights
were not tuned.
Published: no result for these sprites (Kumar et al. 2018).
Command: jaxae dip_vae --data sprites --seeds 3
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.core import kl_term
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.variants import dip_vae, vae


@dataclass(frozen=True)
class Config(variational.Fields, run.Config):
    """1024-512-256-10-256-512-1024, Adam."""

    epochs: int = 30
    batch_size: int = 128
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 10
    """Number of latent dimensions."""
    covariance: dip_vae.Of = "samples"
    """Covariance that is penalised: of posterior means or of posterior samples."""
    off_diagonal: float = 10.0
    """Weight lambda_od of the squared covariances."""
    diagonal: float = 10.0
    """Weight lambda_d of the squared differences of the variances from 1."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    model = vae.VAE(*variational.dense(config, info, precision=config.precision))
    warmup = variational.warmup(config, info)
    weights = (kl_term.scaled(weight, warmup) for weight in (config.off_diagonal, config.diagonal, 1.0))
    loss = dip_vae.loss(model, config.covariance, *weights)
    return variational.experiment(config, info, model, descend(loss, run.optimizer(config, info)), vae.loss(model))


if __name__ == "__main__":
    run.main(Config, build)
