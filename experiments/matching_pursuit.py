"""A sparse autoencoder whose encoder is matching pursuit with the decoder's rows.

Group: sparse dictionaries
Source: Costa, Fel, Lubana, Tolooshams & Ba 2025, "From flat to hierarchical: extracting sparse representations with
matching pursuit"; Mallat & Zhang 1993.
Published: on SynthSAEBench-16k with --active 25 and 200 M samples F1 0.4464, MCC 0.6930, explained variance 0.8351 over
five seeds (arXiv 2602.14687).
Command: jaxae matching_pursuit --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5
--active 8
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants.matching_pursuit import MatchingPursuit


@dataclass(frozen=True)
class Config(dictionary.Fields, run.Config):
    """4,096 decoder rows of norm 1, squared error, Adam."""

    active: int = 25
    """Steps of matching pursuit, the largest number of active latents (k)."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, MatchingPursuit(config.active))


if __name__ == "__main__":
    run.main(Config, build)
