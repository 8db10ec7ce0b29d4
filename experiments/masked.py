"""A masked autoencoder: it reconstructs the hidden three quarters of an image from the visible quarter.

Group: denoising and masked
Source: He et al. 2022, who hide 75 % of the patches and compute the loss on these alone, with transformers on ImageNet.
A mask token is learned, as in the paper; its loss is the squared error of normalized patches (--predict normalized).
Vincent et al. 2010.
Published: no result for MNIST (He et al. 2022).
Command: jaxae masked --data mnist --seeds 3
Measured: test BCE of hidden pixels 0.1574 +- 0.00033 nats per pixel over three seeds; 122 s in total on two shared CPU
cores.
"""

from dataclasses import dataclass
from typing import Literal

import flax.linen as nn

from jaxae import nets, run
from jaxae.core.step import descend
from jaxae.variants import autoencoder, masked


@dataclass(frozen=True)
class Masking(run.Config):
    """Fields of the mask and of the target, which `mae` shares."""

    epochs: int = 20
    batch_size: int = 128
    patch: int = 4
    """Width of a patch in pixels (1: single pixels)."""
    mask_ratio: float = 0.75
    """Fraction of the patches to hide."""
    predict: Literal["pixels", "normalized"] = "pixels"
    """Target of the hidden patches. pixels: cross-entropy. normalized: squared error, each patch with mean 0 and
    variance 1; its decoded images have no brightness and contrast."""


@dataclass(frozen=True)
class Config(Masking):
    """784-512-256-512-784, ReLU, cross-entropy of the hidden pixels, Adam."""

    hidden: tuple[int, ...] = (512,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    latent: int = 256
    """Number of latent dimensions."""


def output(config: Masking) -> nets.Activation:
    """The map from decoder outputs to pixels."""
    return masked.grey if config.predict == "normalized" else nn.sigmoid


def experiment(config: Masking, info: run.Info, model: masked.Masked | masked.MaskedTransformer) -> run.Experiment:
    """The experiment of a model for images of this shape, which `mae` also uses."""
    if info.real:
        raise ValueError("masked needs pixels in [0, 1], but the data are real numbers; use scale=unit")
    normalized = config.predict == "normalized"
    mask = masked.patches(info.shape, config.patch, config.mask_ratio)
    loss = masked.loss(model, "normalized" if normalized else "bce", mask)
    return run.Experiment(
        model,
        descend(loss, run.optimizer(config, info)),
        loss,
        corrupt=masked.visible(mask),
        unit="per hidden {value}" if normalized else "nats per hidden {value}",
    )


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    both = autoencoder.dense(info.shape, config.hidden, config.latent, precision=config.precision)
    return experiment(config, info, masked.Masked(*both, output(config), patch=config.patch))


if __name__ == "__main__":
    run.main(Config, build)
