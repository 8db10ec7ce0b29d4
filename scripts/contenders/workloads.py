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
    shape: tuple[int, int, int] = (28, 28, 1)  # of an image
    discriminator: tuple[tuple[int, int, int], ...] = ()  # its matrix products

    @property
    def operations(self) -> float:
        """Floating-point operations of a step: the forward pass and two gradients, without that of the images.

        A discriminator adds its forward pass and the gradient of the decoded images to the step of the decoder; its own
        step decodes another batch, and has two batches with the gradient of its parameters.
        """
        each = [places * inputs * outputs for places, inputs, outputs in self.layers]
        total = 3 * sum(each) - each[0]
        if self.discriminator:
            of = [places * inputs * outputs for places, inputs, outputs in self.discriminator]
            total += sum(each) + 2 * sum(of) + 2 * (3 * sum(of) - of[0])
        return 2.0 * self.seeds * self.batch * total

    @property
    def moved(self) -> float:
        """Bytes that Adam reads (parameters, gradients, two moments) and writes (all but the gradients) per step."""
        kernels = (inputs * outputs for _, inputs, outputs in (*self.layers, *self.discriminator))
        return 7 * 4.0 * self.seeds * sum(kernels)


def vae(batch: int, seeds: int = 1) -> Workload:
    """784-500-20-500-784."""
    layers = ((1, 784, 500), (1, 500, 40), (1, 20, 500), (1, 500, 784))
    return Workload("vae", "vae", ("--hidden", "500", "--latent", "20"), batch, layers, 1e-3, seeds, 500, 20)


def denoising(batch: int) -> Workload:
    """The denoising autoencoder with 32, 64 and 128 filters."""
    down = ((784, 9, 32), (196, 288, 64), (49, 576, 128))
    return Workload("denoising", "denoising", (), batch, (*down, (49, 1152, 128), (196, 1152, 64), (784, 576, 1)))


def residual(filters: tuple[int, ...], side: int, into: int, out: int) -> tuple[tuple[int, int, int], ...]:
    """The residual networks of an encoder and its decoder, a block per level and attention in the last.

    Without the layers of the code, and without the products of attention, which have no kernel. into, out: channels.
    """
    sides = [side // 2**number for number in range(len(filters))]
    blocks = [(s * s, 9 * f, f) for s, f in zip(sides, filters, strict=True) for _ in range(4)]  # of both networks
    steps = [
        (s * s, 9 * a, b)
        for s, half, small, large in zip(sides, sides[1:], filters, filters[1:], strict=False)
        for s, a, b in ((half, small, large), (s, large, small))
    ]
    attention = [(sides[-1] ** 2, filters[-1], filters[-1])] * 8
    ends = [(side * side, 9 * into, filters[0]), (side * side, 9 * filters[0], out)]
    return (ends[0], *blocks, *steps, *attention, ends[1])


def resnet_vae(batch: int) -> Workload:
    """Residual blocks of 32, 64 and 128 channels, 128 latent dimensions, 32 x 32 pixels."""
    flags = ("--blocks", "1")
    layers = (*residual((32, 64, 128), 32, 3, 45), (1, 8192, 256), (1, 128, 8192))
    shape = (32, 32, 3)
    return Workload("resnet_vae", "resnet_vae", flags, batch, layers, 1e-3, latent=128, shape=shape)


def kl_autoencoder(batch: int) -> Workload:
    """Residual blocks of 32, 64 and 64 channels, a discriminator from the first step, 64 x 64 pixels."""
    flags = ("--adversarial-start", "0")
    layers = (*residual((32, 64, 64), 64, 3, 3), (256, 64, 8), (256, 4, 64))
    against = ((1024, 48, 32), (256, 512, 64), (256, 1024, 128), (256, 2048, 1))
    shape = (64, 64, 3)
    return Workload("kl_autoencoder", "kl_autoencoder", flags, batch, layers, 5e-4, shape=shape, discriminator=against)


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
    "resnet_vae 64": resnet_vae(64),
    "kl_autoencoder 16": kl_autoencoder(16),
}
# Workloads that are bound by dispatch on an accelerator, not by arithmetic.
SMALL = {"VAE 8": vae(8), "mirrored 8": WORKLOADS["mirrored 32"]._replace(batch=8)}
