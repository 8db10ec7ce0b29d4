"""A vector-quantized autoencoder: 7 x 7 latent codes per image, from a codebook of 128 vectors.

Group: quantized
Source: van den Oord, Vinyals & Kavukcuoglu 2017.
Published: no result for these data (van den Oord et al. 2017).
Command: jaxae vqvae --data mnist --seeds 3
Measured: reconstruction 57.1 +- 0.45 nats per image (loss 62.17 +- 0.18), perplexity 37.34 +- 3.6 of 128, all codes
used over three seeds; 276 s in total on two shared CPU cores.
"""

from dataclasses import dataclass
from typing import Literal

from jaxae import likelihoods, run
from jaxae.core.step import descend
from jaxae.measure.codebook import usage
from jaxae.variants import codebook, vqvae


@dataclass(frozen=True)
class Config(run.Config):
    """Convolutions 16-32 of stride 2 and a mirrored decoder, leaky ReLU, Adam."""

    epochs: int = 10
    filters: tuple[int, ...] = (16, 32)
    """Filters in each stride-2 layer of the encoder; the decoder mirrors them."""
    codes: int = 128
    """Number of vectors in the codebook."""
    latent: int = 16
    """Dimension of the codebook vectors."""
    commitment: float = 0.25
    """Weight of the commitment loss."""
    codebook: Literal["ema", "gradient"] = "ema"
    """Codebook update: moving averages of the encoder vectors nearest to each code (ema), or gradient."""
    decay: float = 0.99
    """Decay per step of the moving averages of --codebook ema."""
    reinit_below: float = 0.1
    """Codes whose EMA usage is below this fraction of uniform are re-initialised from the batch (0: none)."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    if config.reinit_below >= 1:
        raise ValueError(
            f"reinit_below={config.reinit_below} must be below 1, or every code is re-initialised in every step"
        )
    likelihood = likelihoods.Normal() if info.real else likelihoods.Bernoulli()
    learned = config.codebook == "gradient"
    tracked = not learned or config.reinit_below > 0
    model = vqvae.VQVAE(
        *vqvae.strided(info.shape, config.filters, config.latent, vqvae.bias(likelihood, info), config.precision),
        codes=config.codes,
        latent=config.latent,
        learned=learned,
        tracked=tracked,
        likelihood=likelihood,
    )
    loss = vqvae.loss(model, config.commitment, codebook.track(config.decay, config.reinit_below) if tracked else None)
    return run.Experiment(model, descend(loss, run.optimizer(config, info)), loss, measures={"codebook": usage})


if __name__ == "__main__":
    run.main(Config, build)
