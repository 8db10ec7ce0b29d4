"""The gated sparse autoencoder: a gate decides which latents are active, and only the gate has an L1 penalty.

Group: sparse dictionaries
Source: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders".
Published: no result for these data (Rajamanoharan et al. 2024).
Command: jaxae gated --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5
--target-active 8
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants import gated


@dataclass(frozen=True)
class Config(dictionary.Penalized, dictionary.Fields, run.Config):
    """One hidden layer of 4,096 latents, squared errors, Adam."""

    coefficient: float = 5.0
    """Weight of the L1 norm of the gate."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, gated.Gated())


if __name__ == "__main__":
    run.main(Config, build)
