"""The workloads of the benchmark: networks, batch sizes and the number of operations per step."""

from typing import NamedTuple


class Workload(NamedTuple):
    """One network at one batch size."""

    net: str
    experiment: str  # name of the jaxae experiment
    flags: tuple[str, ...]
    batch: int
    layers: tuple[tuple[int, int, int], ...]  # matrix products per image: positions, inputs, outputs
    lr: float = 1e-3
    seeds: int = 1
    hidden: int = 0
    latent: int = 0

    @property
    def operations(self) -> float:
        """Floating-point operations of a step: the forward pass and two gradients, without that of the images."""
        each = [places * inputs * outputs for places, inputs, outputs in self.layers]
        return 2.0 * self.seeds * self.batch * (3 * sum(each) - each[0])

    @property
    def moved(self) -> float:
        """Bytes that Adam reads (parameters, gradients, two moments) and writes (all but the gradients) per step."""
        return 7 * 4.0 * self.seeds * sum(inputs * outputs for _, inputs, outputs in self.layers)


def vae(batch: int, seeds: int = 1) -> Workload:
    """784-500-20-500-784."""
    layers = ((1, 784, 500), (1, 500, 40), (1, 20, 500), (1, 500, 784))
    return Workload("vae", "vae", ("--hidden", "500", "--latent", "20"), batch, layers, 1e-3, seeds, 500, 20)


def denoising(batch: int) -> Workload:
    """The denoising autoencoder with 32, 64 and 128 filters."""
    down = ((784, 9, 32), (196, 288, 64), (49, 576, 128))
    return Workload("denoising", "denoising", (), batch, (*down, (49, 1152, 128), (196, 1152, 64), (784, 576, 1)))


DENSE = ((1, 784, 512), (1, 512, 128), (1, 128, 10), (1, 10, 128), (1, 128, 512), (1, 512, 784))
MIRRORED = (
    *((784, 9, 32), (196, 288, 64), (49, 576, 64), (49, 576, 64), (1, 3136, 2)),
    *((1, 2, 3136), (49, 576, 64), (49, 576, 64), (196, 576, 32), (784, 288, 1)),
)
LSTM = ((28, 28, 256), (28, 64, 256), (28, 64, 512), (28, 128, 512), (28, 128, 28))

WORKLOADS = {
    "dense 1024": Workload("dense", "dense", (), 1024, DENSE),
    "VAE 128": vae(128),
    "VAE 32": vae(32),
    "denoising 128": denoising(128),
    "denoising 512": denoising(512),
    "mirrored 32": Workload("mirrored", "mirrored", (), 32, MIRRORED, 5e-4),
    "LSTM 128": Workload("sequence", "sequence", (), 128, LSTM),
    "8 seeds of VAE 128": vae(128, 8),
}
# Workloads that are bound by dispatch on an accelerator, not by arithmetic.
SMALL = {"VAE 8": vae(8), "mirrored 8": WORKLOADS["mirrored 32"]._replace(batch=8)}
