"""VQ-VAE-2: two levels of codes, of which the top one holds global structure and the bottom one details.

7 x 7 and 4 x 4 latent codes per image of 28 x 28, each level with a codebook of 128 vectors.

Group: quantized
Source: Razavi, van den Oord & Vinyals 2019, with the networks of `vqvae` in place of residual ones.
Published: no result for these data (Razavi et al. 2019).
Command: jaxae vqvae2 --data mnist --seeds 3
"""

from dataclasses import dataclass
from functools import partial

from jaxae import likelihoods, nets, run
from jaxae.core.step import descend
from jaxae.experiments import vqvae as plain
from jaxae.measure.codebook import usage
from jaxae.variants import quantize, vqvae, vqvae2


@dataclass(frozen=True)
class Config(plain.Config):
    """The networks of `vqvae`, with one more layer of stride 2 for the top level, leaky ReLU, Adam."""

    top_filters: int = 32
    """Filters of the layer between the levels."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape. ValueError for data without images."""
    info.require_images("vqvae2")
    likelihood = likelihoods.Normal() if info.real else likelihoods.Bernoulli()
    width, step = config.filters[-1], 2 ** len(config.filters)
    size = -(-info.shape[0] // step), -(-info.shape[1] // step)
    bias = vqvae.bias(likelihood, info)
    encoder, decoder = vqvae.strided(info.shape, config.filters, width, bias, config.precision)
    above, below = vqvae.strided((*size, width), (config.top_filters,), config.latent, 0.0, config.precision)
    model = vqvae2.VQVAE2(
        encoder=encoder,
        decoder=decoder,
        quantizer=quantize.named(config),
        likelihood=likelihood,
        top_encoder=above,
        top_decoder=below,
        top_quantizer=quantize.named(config),
        joined=nets.MLP((), (config.latent,), precision=config.precision),
        size=size,
    )
    loss = vqvae.loss(model)
    measures = {"codebook": partial(usage, levels=(model.top_positions,))}
    return run.Experiment(model, descend(loss, run.optimizer(config, info)), loss, measures=measures)


if __name__ == "__main__":
    run.main(Config, build)
