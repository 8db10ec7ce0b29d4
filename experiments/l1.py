"""A sparse autoencoder with an L1 penalty on its codes, as used on the activations of language models.

Group: sparse dictionaries
Source: Bricken et al. 2023, "Towards monosemanticity"; input scale, coefficient and activations times decoder
norm are those of Anthropic's update of April 2024, "Training sparse autoencoders".
Published: on SynthSAEBench-16k at 25 active latents and 200 M samples F1 0.5562, MCC 0.6039, explained variance 0.7654
over five seeds (arXiv 2602.14687).
Command: jaxae l1 --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5 --target-active 8
"""

from dataclasses import dataclass
from typing import Literal

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants.dictionary import Rule


@dataclass(frozen=True)
class Config(dictionary.Penalized, dictionary.Fields, run.Config):
    """One hidden layer of 4,096 latents, squared error, Adam."""

    decoder_norm: Literal["unit", "scaled"] = "scaled"
    coefficient: float = 5.0
    """Weight of the L1 norm of the codes."""
    coefficient_warmup: float = 1 / 3


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, Rule())


if __name__ == "__main__":
    run.main(Config, build)
