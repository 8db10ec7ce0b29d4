"""Hand-written PyTorch of `resnet_vae` and `kl_autoencoder`, eager or with `torch.compile`.

The same networks, losses and number of passes as in jaxae: the discriminator's step decodes again, without a gradient.
Data on the device, fused Adam, channels-last convolutions, denormals flushed to zero, autocast for bfloat16.
"""

from math import gcd
from typing import Any

import numpy as np
import torch
import turns
from torch import nn
from torch.nn import functional as F  # noqa: N812

FILTERS, BLOCKS, HEADS = (32, 64, 128), 1, 4
KL_FILTERS, KL_LATENT, DISCRIMINATOR = (32, 64, 64), 4, (32, 64, 128)
COMPONENTS = 5


def norm(width: int) -> nn.GroupNorm:
    """Group norm of 8 channels per group."""
    return nn.GroupNorm(gcd(width, max(width // 8, 1)), width, eps=1e-6)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        silu = nn.SiLU()
        self.net = nn.Sequential(
            norm(width), silu, nn.Conv2d(width, width, 3, 1, 1), norm(width), silu, nn.Conv2d(width, width, 3, 1, 1)
        )
        nn.init.zeros_(self.net[-1].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.net(x)


class Attention(nn.Module):
    """Self-attention of pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.into, self.out = norm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        parts = self.into(self.norm(x).flatten(2).transpose(1, 2)).reshape(b, h * w, 3, HEADS, -1)
        mixed = F.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4).unbind(0))
        y = self.out(mixed.transpose(1, 2).reshape(b, h * w, c))
        return x + y.transpose(1, 2).reshape(b, c, h, w)


def level(filters: tuple[int, ...], number: int) -> list[nn.Module]:
    """The blocks of a level; the last level has attention."""
    last = number == len(filters) - 1
    return [part(filters[number]) for _ in range(BLOCKS) for part in ((Block, Attention) if last else (Block,))]


def encoder(filters: tuple[int, ...], channels: int, *out: nn.Module) -> nn.Sequential:
    """Levels, each but the first after halving."""
    layers: list[nn.Module] = [nn.Conv2d(channels, filters[0], 3, 1, 1)]
    for number, width in enumerate(filters):
        if number:
            layers.append(nn.Conv2d(filters[number - 1], width, 3, 2, 1))
        layers += level(filters, number)
    return nn.Sequential(*layers, norm(filters[-1]), nn.SiLU(), *out)


def decoder(filters: tuple[int, ...], channels: int, *into: nn.Module) -> nn.Sequential:
    """The levels in reverse order, each but the first after doubling."""
    layers = [*into]
    for number in reversed(range(len(filters))):
        if number < len(filters) - 1:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(filters[number + 1], filters[number], 3, 1, 1)]
        layers += level(filters, number)
    return nn.Sequential(*layers, norm(filters[0]), nn.SiLU(), nn.Conv2d(filters[0], channels, 3, 1, 1))


def discriminator(filters: tuple[int, ...]) -> nn.Sequential:
    """Logits of patches."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((3, *filters), filters, strict=False)):
        last = number == len(filters) - 1
        layers += [*same(), nn.Conv2d(before, after, 4)] if last else [nn.Conv2d(before, after, 4, 2, 1)]
        layers += ([norm(after)] if number else []) + [nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, *same(), nn.Conv2d(filters[-1], 1, 4))


def same() -> list[nn.Module]:
    """The padding SAME of a convolution of width 4."""
    return [nn.ZeroPad2d((1, 2, 1, 2))]


def nets(work: dict[str, Any]) -> tuple[nn.Module, ...]:
    """Encoder, decoder and, for `kl_autoencoder`, discriminator."""
    if work["net"] == "resnet_vae":
        side, latent = 32 // 2 ** (len(FILTERS) - 1), work["latent"]
        size = side * side * FILTERS[-1]
        return (
            encoder(FILTERS, 3, nn.Flatten(), nn.Linear(size, 2 * latent)),
            decoder(FILTERS, 9 * COMPONENTS, nn.Linear(latent, size), nn.Unflatten(1, (FILTERS[-1], side, side))),
        )
    return (
        encoder(KL_FILTERS, 3, nn.Conv2d(KL_FILTERS[-1], 2 * KL_LATENT, 1)),
        decoder(KL_FILTERS, 3, nn.Conv2d(KL_LATENT, KL_FILTERS[-1], 1)),
        discriminator(DISCRIMINATOR),
    )


def log_mass(outputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log mass of the levels of x under a discretized logistic mixture."""
    logits, location, log_scale = outputs.float().unflatten(1, (3, COMPONENTS, -1)).unbind(1)
    precision, middle, half = torch.exp(-log_scale.clamp(-12, 3)), x[:, None], 0.5 / 255
    above, below = (middle + half - location) * precision, (middle - half - location) * precision
    lowest, highest = middle < half, middle > 1 - half
    mass = (
        F.logsigmoid(above).masked_fill(highest, 0)
        + F.logsigmoid(-below).masked_fill(lowest, 0)
        + torch.log(-torch.expm1(-precision / 255)).masked_fill(lowest | highest, 0)
    )
    return torch.logsumexp(F.log_softmax(logits, 1) + mass, 1)


def sampled(net: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample of the posterior, and the KL term in nats."""
    mean, log_scale = (part.float() for part in net(x).chunk(2, 1))
    kl = (0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale).flatten(1).sum(1)
    return mean + log_scale.exp() * torch.randn_like(mean), kl


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    if work["device"] == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32, the default of JAX
    device, size = torch.device({"gpu": "cuda"}.get(work["device"], "cpu")), work["batch"]
    layout: dict[str, Any] = {"memory_format": torch.channels_last}
    parts = [net.to(device).to(**layout) for net in nets(work)]
    last = parts[1][-1].weight  # type: ignore[index]
    height, width, channels = work["shape"]
    x = torch.tensor(images).to(device).float().div_(255).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    x = x.contiguous(**layout)
    into, out = parts[:2]
    adam = torch.optim.Adam([*into.parameters(), *out.parameters()], work["lr"], fused=True)
    if work["net"] == "kl_autoencoder":
        other = torch.optim.Adam(parts[2].parameters(), 2e-4, betas=(0.5, 0.9), fused=True)
    if work["compile"]:
        into, out, *rest = (torch.compile(net) for net in parts)
        parts = [into, out, *rest]

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=work["precision"] == "mixed")

    def elbo(batch: torch.Tensor) -> torch.Tensor:
        with autocast():
            z, kl = sampled(into, batch)
            return (kl - log_mass(out(z), batch).flatten(1).sum(1)).mean()

    if work["compile"] and work["net"] == "resnet_vae":
        elbo = torch.compile(elbo)

    def resnet(batch: torch.Tensor) -> torch.Tensor:
        adam.zero_grad(set_to_none=True)
        loss = elbo(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*parts[0].parameters(), *parts[1].parameters()], 100.0)
        adam.step()
        return loss

    def adversarial(batch: torch.Tensor) -> torch.Tensor:
        with autocast():
            z, kl = sampled(into, batch)
            y = out(z).float()
            distance = (y - batch).abs().mean() + 1e-6 * kl.mean() / batch[0].numel()
            generator = -parts[2](y).float().mean()
        slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (distance, generator)]
        weight = 0.5 * (slopes[0] / (slopes[1] + 1e-4)).clamp(max=1e4).detach()
        adam.zero_grad(set_to_none=True)
        (distance + weight * generator).backward()
        adam.step()
        with autocast():
            with torch.no_grad():
                y = out(sampled(into, batch)[0]).float()
            real, fake = parts[2](batch).float(), parts[2](y).float()
            hinge = (F.relu(1 - real) + F.relu(1 + fake)).mean() / 2
        other.zero_grad(set_to_none=True)
        hinge.backward()
        other.step()
        return distance

    step = resnet if work["net"] == "resnet_vae" else adversarial
    order, at = torch.randperm(len(x), device=device), 0

    def steps(count: int) -> float:
        nonlocal order, at
        loss = torch.zeros(())
        for _ in range(count):
            if at + size > len(x):
                order, at = torch.randperm(len(x), device=device), 0
            loss = step(x[order[at : at + size]].contiguous(**layout))
            at += size
        return loss.item()  # waits for the device

    return steps


if __name__ == "__main__":
    turns.serve(build)
