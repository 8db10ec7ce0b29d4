"""The first stage of latent diffusion: spatial codes, a small KL term, perceptual distance, patch discriminator.

Group: adversarial and MMD
Source: Rombach, Blattmann, Lorenz, Esser & Ommer 2022, section 3.1 and appendix G (KL-regularized); losses and adaptive
weight of Esser, Rombach & Ommer 2021. Their perceptual distance uses a network trained on photographs; here it uses the
features of a classifier trained by `jaxae classifier`.
Published: no result for these networks.
Command: jaxae kl_autoencoder --data cifar10
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optax

from jaxae import nets, run
from jaxae.core.step import alternate, descend
from jaxae.measure import perceptual
from jaxae.variants import kl_autoencoder


@dataclass(frozen=True)
class Config(run.Config):
    """Residual blocks of 32, 64 and 64 channels at full, half and quarter resolution, codes of 4 channels, Adam."""

    epochs: int = 20
    batch_size: int = 32
    lr: float = 5e-4
    latent: int = 4
    """Channels of the code; its height and width are those of the last level."""
    filters: tuple[int, ...] = (32, 64, 64)
    """Channels of each level; height and width halve from level to level."""
    blocks: int = 1
    """Residual blocks of each level."""
    attention: tuple[int, ...] = (2,)
    """Levels with self-attention, counted from 0."""
    heads: int = 4
    """Heads of the self-attention."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    pixels: kl_autoencoder.Pixels = "l1"
    """Distance between pixels. l1: mean absolute error. l2: mean squared error."""
    kl_weight: float = 1e-6
    """Weight of the KL term in nats, divided by the number of pixels times channels."""
    classifier: str = ""
    """File of weights written by `jaxae classifier --out` for images with as many channels, whose activations the
    perceptual distance compares. It is read again when the run is resumed. (default: no perceptual distance)"""
    perceptual_weight: float = 1.0
    """Weight of the perceptual distance."""
    adversarial_weight: float = 0.5
    """Factor of the adaptive weight of the discriminator (0: no discriminator)."""
    adversarial_start: float = 5.0
    """Epochs before the discriminator starts."""
    adversarial_lr: float = 2e-4
    """Constant learning rate of the discriminator, which Adam trains; no other optimizer field applies to it."""
    discriminator: tuple[int, ...] = (32, 64, 128)
    """Channels of the discriminator's layers."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    info.require_images("kl_autoencoder")
    if config.classifier and info.real:
        raise ValueError(
            f"classifier={config.classifier} needs pixels in [0, 1], but the data are real numbers; use scale=unit"
        )
    options: dict[str, Any] = {
        "filters": config.filters,
        "blocks": config.blocks,
        "attention": config.attention,
        "heads": config.heads,
        "remat": config.remat,
        "precision": config.precision,
    }
    model = kl_autoencoder.KLAutoencoder(
        nets.ResNet(channels=2 * config.latent, **options),
        nets.UpResNet(info.shape, bias=tuple(info.initial_mean().mean((0, 1)).tolist()), **options),
        nets.PatchDiscriminator(config.discriminator, precision=config.precision),
        pixels=not info.real,
    )
    distance = perceptual.read(Path(config.classifier)) if config.classifier else None
    loss = partial(
        kl_autoencoder.loss,
        model,
        config.kl_weight,
        pixels=config.pixels,
        perceptual=distance,
        perceptual_weight=config.perceptual_weight,
    )
    if not config.adversarial_weight:
        train = descend(loss(), run.optimizer(config, info), wrt=("encoder", "decoder"))
        return run.Experiment(model, train, loss(), unit="per {value}")
    start = kl_autoencoder.started(config.adversarial_start * info.train / config.batch_size)

    def factor(step: Any) -> Any:
        return config.adversarial_weight * start(step)

    train = alternate(
        descend(loss(adversarial=factor), run.optimizer(config, info), wrt=("encoder", "decoder")),
        descend(
            kl_autoencoder.discriminator_loss(model, start),
            optax.adam(config.adversarial_lr, b1=0.5, b2=0.9),
            wrt=("discriminator",),
            name="discriminator",
        ),
    )
    return run.Experiment(model, train, loss(), unit="per {value}")


if __name__ == "__main__":
    run.main(Config, build)
