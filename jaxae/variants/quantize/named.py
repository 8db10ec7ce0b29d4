"""Quantizers by name."""

import dataclasses
from dataclasses import dataclass
from math import log2
from typing import Any, Literal

from jaxae.variants.quantize.base import Estimator, Quantizer, straight_through
from jaxae.variants.quantize.bsq import BSQ
from jaxae.variants.quantize.codebook import Sampling
from jaxae.variants.quantize.fsq import FSQ
from jaxae.variants.quantize.gumbel import Gumbel
from jaxae.variants.quantize.lfq import LFQ
from jaxae.variants.quantize.projected import Projected
from jaxae.variants.quantize.rotation import rotated
from jaxae.variants.quantize.several import Grouped, Residual
from jaxae.variants.quantize.simvq import SimVQ
from jaxae.variants.quantize.vq import VQ

Name = Literal["vq", "simvq", "fsq", "lfq", "bsq", "gumbel"]


@dataclass(frozen=True)
class Options:
    """The fields of a quantizer. For `class Config(quantize.Options, run.Config)`."""

    quantizer: Name = "vq"
    """Quantizer. vq: nearest code of a learned codebook. simvq: nearest code of a learned linear map of fixed vectors.
    fsq: channels rounded to --levels. lfq: signs of the channels. bsq: signs of the channels of a unit vector. gumbel:
    Gumbel-softmax samples."""
    codes: int = 128
    """Number of codes; a power of two for lfq and bsq, the product of --levels for fsq."""
    latent: int = 16
    """Dimension of the vectors that are quantized."""
    code_dim: int = 0
    """Dimension of the codes of vq and simvq, if the vectors are mapped to fewer channels (0: --latent)."""
    residual: int = 1
    """Number of residual quantizers, each of which quantizes the residual of those before it."""
    groups: int = 1
    """Number of equal groups of channels, each with its own quantizers."""
    quantizer_dropout: float = 0.0
    """Probability that a training example uses a random number of the --residual quantizers only."""
    commitment: float = 0.25
    """Weight of the commitment loss."""
    codebook: Literal["ema", "gradient"] = "ema"
    """Codebook update: moving averages of the encoder vectors nearest to each code (ema), or gradient."""
    decay: float = 0.99
    """Decay per step of the moving averages of --codebook ema."""
    reinit_below: float = 0.1
    """Codes whose EMA usage is below this fraction of uniform are re-initialised from the batch (0: none)."""
    reinit_usage: float = 1.0
    """EMA usage of a re-initialised code, as a fraction of uniform."""
    reinit_from: Sampling = "uniform"
    """Sampling of the vectors that re-initialise codes: uniform, or error, with a probability proportional to their
    squared error."""
    kmeans: int = 0
    """Iterations of k-means on the first batch, to initialise the codebook (0: random codes)."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """Distance of vq. cosine: vectors and codes have norm 1."""
    gradient: Literal["straight-through", "rotation"] = "straight-through"
    """Gradient estimator of the nearest code: straight-through, or the rotation trick."""
    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Number of levels of each channel of fsq."""
    entropy: float = 0.1
    """Weight of the entropy terms of lfq and bsq: confident codes, used equally."""
    diversity: float = 1.0
    """Weight of the entropy of the mean within the entropy terms."""
    temperature: float = 0.0
    """Temperature of the softmax of lfq, bsq and gumbel (0: 0.1, 0.01 and 1, respectively)."""
    code_kl: float = 1.0
    """Weight of gumbel's KL divergence from a uniform distribution over the codes."""


# Fields of all quantizers, and those of each.
COMMON = {"quantizer", "latent", "residual", "groups", "quantizer_dropout"}
FIELDS: dict[str, set[str]] = {
    "vq": {"codes", "code_dim", "commitment", "codebook", "decay", "reinit_below", "reinit_usage", "reinit_from"}
    | {"kmeans", "distance", "gradient"},
    "simvq": {"codes", "code_dim", "commitment", "gradient"},
    "fsq": {"levels"},
    "lfq": {"codes", "commitment", "entropy", "diversity", "temperature"},
    "bsq": {"codes", "commitment", "entropy", "diversity", "temperature"},
    "gumbel": {"codes", "temperature", "code_kl"},
}


def named(options: Options) -> Quantizer:
    """The quantizer of these options, with groups, residual quantizers and a map to fewer channels if requested.

    ValueError for an option that has no effect with this quantizer, a number of codes of lfq or bsq that is not a power
    of two, a number of groups that does not divide the channels, residual quantizers with cosine distance, and values
    out of range.
    """
    name, groups = options.quantizer, options.groups
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        if value != field.default and field.name not in COMMON | FIELDS[name]:
            raise ValueError(f"{field.name}={_spelled(value)} has no effect with quantizer={name}; omit it")
    if options.quantizer_dropout and options.residual == 1:
        raise ValueError(f"quantizer_dropout={options.quantizer_dropout} needs residual=2 or more")
    if options.distance == "cosine" and options.residual > 1:
        raise ValueError(f"residual={options.residual} needs distance=euclidean: with cosine all codes have norm 1")
    if not options.reinit_below and (options.reinit_usage, options.reinit_from) != (1.0, "uniform"):
        raise ValueError("reinit_usage and reinit_from have no effect with reinit_below=0; omit them")
    if groups < 1:
        raise ValueError(f"groups={groups} must be at least 1")
    width = options.code_dim or options.latent
    if name in ("fsq", "lfq", "bsq"):
        width = groups * (len(options.levels) if name == "fsq" else _bits(options))
    elif width % groups:
        raise ValueError(f"groups={groups} does not divide {width} channels; use a divisor")
    estimator = rotated if options.gradient == "rotation" else straight_through

    def stages() -> Quantizer:
        if options.residual == 1:
            return _single(options, width // groups, estimator)
        layers = tuple(_single(options, width // groups, estimator) for _ in range(options.residual))
        return Residual(layers, options.quantizer_dropout, None if name == "gumbel" else estimator)

    inner = stages() if groups == 1 else Grouped(tuple(stages() for _ in range(groups)))
    return inner if width == options.latent else Projected(inner, width, options.latent)


def _single(options: Options, width: int, estimator: Estimator) -> Quantizer:
    match options.quantizer:
        case "vq":
            return VQ(
                options.codes,
                width,
                learned=options.codebook == "gradient",
                commitment=options.commitment,
                decay=options.decay,
                reinit_below=options.reinit_below,
                reinit_usage=options.reinit_usage,
                sampling=options.reinit_from,
                kmeans=options.kmeans,
                cosine=options.distance == "cosine",
                estimator=estimator,
            )
        case "simvq":
            return SimVQ(options.codes, width, options.commitment, estimator)
        case "fsq":
            return FSQ(options.levels)
        case "lfq" | "bsq":
            weights: dict[str, Any] = {"entropy": options.entropy, "diversity": options.diversity}
            weights |= {"temperature": options.temperature} if options.temperature else {}
            kind = LFQ if options.quantizer == "lfq" else BSQ
            return kind(_bits(options), commitment=options.commitment, **weights)
        case "gumbel":
            return Gumbel(options.codes, width, options.temperature or 1.0, options.code_kl)


def _bits(options: Options) -> int:
    bits = int(log2(options.codes))
    if 2**bits != options.codes:
        raise ValueError(f"codes={options.codes} must be a power of two with quantizer={options.quantizer}")
    return bits


def _spelled(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
