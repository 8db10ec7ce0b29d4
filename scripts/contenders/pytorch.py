"""Hand-written PyTorch, eager or with `torch.compile`, with the usual optimizations.

Data on the device, fused Adam, channels-last convolutions, denormals flushed to zero, autocast for bfloat16.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
import turns
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Repeat(nn.Module):
    """[N, Z] -> [N, T, Z]."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, None].expand(-1, self.times, -1)


class LSTM(nn.Module):
    """[N, T, D] -> all outputs, or the last one."""

    def __init__(self, size: int, width: int, last: bool) -> None:
        super().__init__()
        self.lstm, self.last = nn.LSTM(size, width, batch_first=True), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, (hidden, _) = self.lstm(x)
        return hidden[0] if self.last else outputs


def dense(*widths: int, activation: type[nn.Module]) -> list[nn.Module]:
    """Layers, the last one linear."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return layers[:-1]


def conv(before: int, after: int, *more: nn.Module, stride: int = 1) -> list[nn.Module]:
    """A convolution with padding 1, and the layers after it."""
    return [nn.Conv2d(before, after, 3, stride, 1), *more]


def up(before: int, after: int, *more: nn.Module, stride: int) -> list[nn.Module]:
    """A transposed convolution, and the layers after it."""
    return [nn.ConvTranspose2d(before, after, 3, stride, 1, output_padding=stride - 1), *more]


def nets(work: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder; the decoder returns logits."""
    relu, leaky, doubled = nn.ReLU(), nn.LeakyReLU(0.3), nn.Upsample(scale_factor=2)
    if work["net"] == "dense":
        widths = (784, 512, 128, 10)
        return tuple(nn.Sequential(*dense(*w, activation=nn.ELU)) for w in (widths, widths[::-1]))  # type: ignore[return-value]
    if work["net"] == "vae":
        hidden, latent = work["hidden"], work["latent"]
        return (
            nn.Sequential(*dense(784, hidden, 2 * latent, activation=nn.ReLU)),
            nn.Sequential(*dense(latent, hidden, 784, activation=nn.ReLU)),
        )
    if work["net"] == "denoising":
        pool = nn.MaxPool2d(2)
        down = [*conv(1, 32, relu, pool), *conv(32, 64, relu, pool), *conv(64, 128, relu)]
        back = [*conv(128, 128, relu, doubled), *conv(128, 64, relu, doubled), *conv(64, 1)]
        return nn.Sequential(*down), nn.Sequential(*back)
    if work["net"] == "mirrored":
        down = [*conv(1, 32, leaky), *conv(32, 64, leaky, stride=2)]
        down += [*conv(64, 64, leaky, stride=2), *conv(64, 64, leaky), nn.Flatten(), nn.Linear(3136, 2)]
        back = [nn.Linear(2, 3136), nn.Unflatten(1, (64, 7, 7)), *up(64, 64, leaky, stride=1)]
        back += [*up(64, 64, leaky, stride=2), *up(64, 32, leaky, stride=2), *up(32, 1, stride=1)]
        return nn.Sequential(*down), nn.Sequential(*back)
    return LSTM(28, 64, last=True), nn.Sequential(Repeat(28), LSTM(64, 128, last=False), nn.Linear(128, 28))


def objective(work: dict[str, Any], encoder: nn.Module, decoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The loss of a batch."""
    if work["net"] == "vae":
        mean, log_scale = encoder(x).chunk(2, -1)
        logits = decoder(mean + log_scale.exp() * torch.randn_like(mean))
        bce = F.binary_cross_entropy_with_logits(logits.float(), x, reduction="sum")
        mean, log_scale = mean.float(), log_scale.float()
        return (bce + (0.5 * (mean**2 + (2 * log_scale).exp() - 1) - log_scale).sum()) / len(x)
    inputs = (x + 0.5 * torch.randn_like(x)).clamp(0, 1) if work["net"] == "denoising" else x
    logits = decoder(encoder(inputs)).float()
    if work["net"] == "sequence":
        return F.binary_cross_entropy_with_logits(logits, x)
    return F.mse_loss(logits.sigmoid(), x)


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    torch.manual_seed(0)
    torch.set_flush_denormal(True)
    if work["device"] == "gpu":
        torch.set_float32_matmul_precision("high")  # TF32, the default of JAX
    device, size = torch.device({"gpu": "cuda"}.get(work["device"], "cpu")), work["batch"]
    encoder, decoder = (net.to(device) for net in nets(work))
    shape, layout = turns.shape(work["net"], (1, 28, 28)), {}
    if len(shape) == 3:
        layout = {"memory_format": torch.channels_last}
        encoder, decoder = encoder.to(**layout), decoder.to(**layout)
    x = torch.tensor(images).to(device).float().div_(255).reshape(-1, *shape)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    if work.get("optimizer") == "rmsprop":
        tx: Any = torch.optim.RMSprop(parameters, work["lr"], alpha=0.9, foreach=True)
    else:
        tx = torch.optim.Adam(parameters, work["lr"], fused=True)

    def loss_of(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=work["precision"] == "mixed"):
            return objective(work, encoder, decoder, batch)

    if work["compile"]:
        loss_of = torch.compile(loss_of)
    order, at = torch.randperm(len(x), device=device), 0

    def steps(count: int) -> float:
        nonlocal order, at
        loss = torch.zeros(())
        for _ in range(count):
            if at + size > len(x):
                order, at = torch.randperm(len(x), device=device), 0
            batch = x[order[at : at + size]].contiguous(**layout)
            at += size
            tx.zero_grad(set_to_none=True)
            loss = loss_of(batch)
            loss.backward()
            tx.step()
        return loss.item()  # waits for the device

    return steps


if __name__ == "__main__":
    turns.serve(build)
