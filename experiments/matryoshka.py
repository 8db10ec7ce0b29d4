"""The Matryoshka sparse autoencoder: BatchTopK in which prefixes of the latents must also reconstruct the example.

Group: sparse dictionaries
Source: Bussmann, Nabeshima, Karvonen & Nanda 2025, "Learning multi-level features with Matryoshka sparse autoencoders".
Published: on SynthSAEBench-16k with --active 25 and 200 M samples F1 0.8793 +- 0.0021, MCC 0.7927, explained variance
0.7792 over five seeds (arXiv 2602.14687).
Command: jaxae matryoshka --data superposition/eighth,shared=true --epochs 2 --latent 512 --lr 1e-3 --seeds 5
--active 8 --levels 16 64 256
"""

from dataclasses import dataclass

from jaxae import run
from jaxae.run import dictionary
from jaxae.variants import top_k


@dataclass(frozen=True)
class Config(dictionary.Fields, run.Config):
    """One hidden layer of 4,096 latents in four levels, squared errors, Adam."""

    active: int = 25
    """Mean number of active latents per example in a batch (k)."""
    levels: tuple[int, ...] = (128, 512, 2048)
    """Sizes of the inner dictionaries, each a prefix of the --latent latents."""
    auxiliary: float = 1.0


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for data of this shape."""
    return dictionary.experiment(config, info, top_k.BatchTopK(config.active), levels=config.levels)


if __name__ == "__main__":
    run.main(Config, build)
