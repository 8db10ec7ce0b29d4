"""A sparse autoencoder with JumpReLU, whose thresholds are trained, and a penalty on the number of active latents.

Group: sparse dictionaries
Source: Rajamanoharan et al. 2024, "Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders".
The trained parameter is the threshold itself, not its logarithm.
Published: on SynthSAEBench-16k at 25 active latents and 200 M samples F1 0.7317 +- 0.0034, MCC 0.7527, explained
variance 0.7951 over five seeds (arXiv 2602.14687).
Command: jaxae jump_relu --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5
--target-active 8
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants import jump_relu


@dataclass(frozen=True)
class Config(dictionary.Penalized, dictionary.Fields, run.Config):
    """One hidden layer of 4,096 latents, squared error, Adam."""

    coefficient: float = 1.0
    """Weight of the number of active latents."""
    threshold: float = 1.0
    """Initial threshold of the activations."""
    bandwidth: float = 1.0
    """Width of the rectangle around the threshold within which it has a gradient."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, jump_relu.JumpReLU(config.threshold, config.bandwidth))


if __name__ == "__main__":
    run.main(Config, build)
