"""Finite scalar quantization: 7 x 7 codes per image, rounded to a fixed grid, without a learned codebook.

Group: quantized
Source: Mentzer, Minnen, Agustsson & Tschannen 2023.
Published: no result for these data (Mentzer et al. 2023).
Command: jaxae fsq --data mnist --seeds 3
Measured: reconstruction 54.84 +- 1.2 nats per image, perplexity 31.05 +- 5 of 1,000 over three seeds; 139 s in total on
two shared CPU cores. Two seeds use nearly all codes; the third uses 36 % of them.
"""

from dataclasses import dataclass
from math import prod

from jaxae import likelihoods, run
from jaxae.core.step import descend
from jaxae.measure.codebook import usage
from jaxae.variants import autoencoder, fsq, vqvae


@dataclass(frozen=True)
class Config(run.Config):
    """The networks of `vqvae` with 4 latent channels per position; cross-entropy, Adam."""

    epochs: int = 10
    filters: tuple[int, ...] = (16, 32)
    """Filters in each layer of the encoder, of stride 2; the decoder mirrors them."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Number of quantization levels of each latent channel."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    bias = vqvae.bias(likelihoods.Normal() if info.real else likelihoods.Bernoulli(), info)
    model = fsq.FSQ(
        *vqvae.strided(info.shape, config.filters, len(config.levels), bias, config.precision),
        autoencoder.output(info),
        levels=config.levels,
    )
    loss = autoencoder.loss(model, "bce", weight=float(prod(info.shape)))
    return run.Experiment(model, descend(loss, run.optimizer(config, info)), loss, measures={"codebook": usage})


if __name__ == "__main__":
    run.main(Config, build)
