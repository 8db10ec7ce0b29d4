"""A variational autoencoder of colour images with residual networks.

Group: variational
Source: Kingma & Welling 2014; residual blocks with group norm and attention as in Vahdat & Kautz 2020 and Rombach et
al. 2022; the likelihood is that of Salimans, Karpathy, Chen & Kingma 2017 without dependence between colours.
Published: no result for these networks.
Command: jaxae resnet_vae --data cifar10 --ema 0.999 --log-likelihood-samples 100
"""

from dataclasses import dataclass
from typing import Any

from jaxae import likelihoods, nets, run
from jaxae.core import kl_term
from jaxae.core.step import descend
from jaxae.run import variational
from jaxae.variants import vae


@dataclass(frozen=True)
class Config(variational.Common, run.Config):
    """Residual blocks of 32, 64 and 128 channels at full, half and quarter resolution, Adam."""

    epochs: int = 20
    batch_size: int = 128
    clip: float = 100.0
    latent: int = 128
    likelihood: likelihoods.Name = "logistic-mixture"
    filters: tuple[int, ...] = (32, 64, 128)
    """Channels of each level; height and width halve from level to level."""
    blocks: int = 2
    """Residual blocks of each level."""
    attention: tuple[int, ...] = (2,)
    """Levels with self-attention, counted from 0."""
    heads: int = 4
    """Heads of the self-attention."""
    squeeze: bool = False
    """Squeeze-and-excitation gates in the residual blocks."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    kl_weight: float = 1.0
    """Weight of the KL term in training (beta); the test loss has weight 1."""
    free_bits: float = 0.0
    """Free bits: nats of KL per latent dimension that are not penalised (0: none)."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    info.require_images("resnet_vae")
    likelihood = likelihoods.named(config.likelihood, config.likelihood_scale, info)
    options: dict[str, Any] = {
        "filters": config.filters,
        "blocks": config.blocks,
        "attention": config.attention,
        "heads": config.heads,
        "squeeze": config.squeeze,
        "remat": config.remat,
        "precision": config.precision,
    }
    decoder = nets.UpResNet(likelihood.parameters(info.shape), bias=variational.colour(likelihood, info), **options)
    encoder = nets.ResNet(outputs=(2 * config.latent,), **options)
    model = vae.VAE(encoder, likelihood.decoder(decoder), likelihood)
    warmup = variational.warmup(config, info)
    rate = kl_term.rate(config.kl_weight, warmup, free=config.free_bits)
    return variational.experiment(
        config, info, model, descend(vae.loss(model, rate), run.optimizer(config, info)), vae.loss(model)
    )


if __name__ == "__main__":
    run.main(Config, build)
