"""A small very deep variational autoencoder (VDVAE): a top-down residual network with five latent layers.

Group: variational
Source: Child 2021, with far fewer latent layers, and residual blocks as in `resnet_vae` in place of bottlenecks; free
bits as in Kingma et al. 2016, per layer.
Published: no result for this network.
Command: jaxae vdvae --data mnist --binarize dynamic --log-likelihood-samples 100
"""

from dataclasses import dataclass

from jaxae import likelihoods, run
from jaxae.run import variational
from jaxae.variants import top_down, vdvae


@dataclass(frozen=True)
class Config(variational.FreeBits, run.Config):
    """Two latent layers at half resolution, two at a quarter and one at an eighth, 32 channels, Adam."""

    epochs: int = 20
    batch_size: int = 64
    clip: float = 200.0
    latent: int = 4
    """Channels of each latent layer."""
    channels: int = 32
    """Channels of the residual networks."""
    latent_layers: tuple[int, ...] = (2, 2, 1)
    """Latent layers at half resolution, at a quarter, and so on."""
    full_layers: int = 0
    """Latent layers at full resolution."""
    blocks: int = 1
    """Residual blocks of each level of the encoder."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    info.require_images("vdvae")
    likelihood = likelihoods.named(config.likelihood, config.likelihood_scale, info)
    colour = variational.colour(likelihood, info)
    decoder = vdvae.Decoder(likelihood.parameters(info.shape), colour, config.precision)
    counts = (config.full_layers, *config.latent_layers)
    layers = vdvae.layers(info.shape, config.channels, config.latent, counts, config.precision)
    model = top_down.TopDown(
        encoder=vdvae.Encoder(config.channels, counts, config.blocks, config.precision),
        layers=layers,
        decoder=likelihood.decoder(decoder),
        likelihood=likelihood,
        start=layers[-1].shape,
    )
    return variational.layered(config, info, model, run.optimizer(config, info))


if __name__ == "__main__":
    run.main(Config, build)
