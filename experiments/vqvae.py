"""A vector-quantized autoencoder: 7 x 7 latent codes per image, from a codebook of 128 vectors.

Group: quantized
Source: van den Oord, Vinyals & Kavukcuoglu 2017.
Published: no result for these data (van den Oord et al. 2017).
Command: jaxae vqvae --data mnist --seeds 3
Measured: reconstruction 57.1 +- 0.45 nats per image (loss 62.17 +- 0.18), perplexity 37.34 +- 3.6 of 128, all codes
used over three seeds; 276 s in total on two shared CPU cores.
"""

from dataclasses import dataclass

from jaxae import likelihoods, run
from jaxae.core.step import descend
from jaxae.measure.codebook import usage
from jaxae.variants import quantize, vqvae


@dataclass(frozen=True)
class Config(quantize.Options, run.Config):
    """Convolutions 16-32 of stride 2 and a mirrored decoder, leaky ReLU, Adam."""

    epochs: int = 10
    filters: tuple[int, ...] = (16, 32)
    """Filters in each stride-2 layer of the encoder; the decoder mirrors them."""


def model(config: Config, info: run.Info) -> vqvae.VQVAE:
    """The model for images of this shape."""
    likelihood = likelihoods.Normal() if info.real else likelihoods.Bernoulli()
    return vqvae.VQVAE(
        *vqvae.strided(info.shape, config.filters, config.latent, vqvae.bias(likelihood, info), config.precision),
        quantizer=quantize.named(config),
        likelihood=likelihood,
    )


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    net = model(config, info)
    loss = vqvae.loss(net)
    return run.Experiment(net, descend(loss, run.optimizer(config, info)), loss, measures={"codebook": usage})


if __name__ == "__main__":
    run.main(Config, build)
