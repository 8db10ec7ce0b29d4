"""A masked autoencoder of vision transformers: it encodes a quarter of the patches and predicts the others.

Group: denoising and masked
Source: He, Chen, Xie, Li, Dollar & Girshick 2022: 75 % of the patches are hidden from the encoder, a small decoder has
mask tokens in their place, and the loss is the squared error of normalized patches; AdamW, cosine decay. Their
transformers are larger, and are trained on ImageNet.
Published: no result for MNIST (He et al. 2022).
Command: jaxae mae --data mnist --warmup-steps 400
"""

from dataclasses import dataclass
from typing import Any, Literal

from jaxae import nets, run
from jaxae.experiments import masked as plain
from jaxae.training import optimizers
from jaxae.variants import masked


@dataclass(frozen=True)
class Config(plain.Masking):
    """Four layers of width 96 for the visible patches, two of width 64 for all, squared error, AdamW."""

    optimizer: optimizers.Name = "adamw"
    schedule: optimizers.Decay = "cosine"
    weight_decay: float = 0.05
    predict: Literal["pixels", "normalized"] = "normalized"
    """Target of the hidden patches. pixels: cross-entropy. normalized: squared error, each patch with mean 0 and
    variance 1; its decoded images have no brightness and contrast."""
    width: int = 96
    """Width of the encoder's tokens, which are the code: a multiple of 4 and of --heads."""
    depth: int = 4
    """Layers of the encoder."""
    decoder_width: int = 64
    """Width of the decoder's tokens: a multiple of 4 and of --heads."""
    decoder_depth: int = 2
    """Layers of the decoder."""
    heads: int = 4
    """Heads of the self-attention."""
    gated: bool = False
    """Use gated dense nets, with as many parameters, in the layers."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    shown = masked.shown(info.shape, config.patch, config.mask_ratio)
    options: dict[str, Any] = {"gated": config.gated, "remat": config.remat, "precision": config.precision}
    model = masked.MaskedTransformer(
        nets.PatchEncoder(config.patch, config.width, config.depth, config.heads, **options),
        nets.PatchDecoder(
            info.shape, config.patch, config.decoder_width, config.decoder_depth, config.heads, **options
        ),
        plain.output(config),
        patch=config.patch,
        shown=shown,
    )
    return plain.experiment(config, info, model)


if __name__ == "__main__":
    run.main(Config, build)
