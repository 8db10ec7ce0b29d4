"""A neural audio codec: strided convolutions, residual vector quantization of frames, and a spectral loss.

At 8 kHz it has 125 frames per second with three codes of 8 bits each: 3,000 bits per second. --residual 6 doubles the
bit rate.

Group: quantized
Source: Zeghidour, Luebs, Omran, Skoglund & Tagliasacchi 2021 (SoundStream), without its discriminators; the
multi-resolution STFT loss of Yamamoto, Song & Kim 2020.
Published: no result for these data.
Command: jaxae codec --data recordings/ --window 8192
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxae import likelihoods, nets, run
from jaxae.core.step import descend
from jaxae.measure.codebook import usage
from jaxae.variants import codec, quantize


@dataclass(frozen=True)
class Config(quantize.Options, run.Config):
    """Strided convolutions of 16, 32 and 64 filters with residual units, a mirrored decoder, ELU, Adam."""

    series: ClassVar[bool] = True
    epochs: int = 50
    batch_size: int = 32
    lr: float = 2e-3
    codes: int = 256
    latent: int = 32
    residual: int = 3
    kmeans: int = 10
    filters: tuple[int, ...] = (16, 32, 64)
    """Filters of each level of the encoder; the decoder mirrors them."""
    strides: tuple[int, ...] = (8, 4, 2)
    """Stride of the convolution before each level; their product is the number of samples per frame."""
    units: int = 1
    """Number of residual units in each level."""
    segment: int = 2048
    """Length, in samples, of the random segment of each recording in a training step (0: the whole recording)."""
    windows: tuple[int, ...] = (128, 256, 512)
    """Window lengths of the multi-resolution STFT loss, in samples."""
    waveform: float = 1.0
    """Weight of the mean absolute error of the waveform."""
    spectrum: float = 1.0
    """Weight of the multi-resolution STFT loss."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for signals of this shape; an image is a signal of rows."""
    options: dict[str, Any] = {"units": config.units, "precision": config.precision}
    model = codec.Codec(
        nets.WaveEncoder(config.filters, config.strides, config.latent, **options),
        nets.WaveDecoder(info.shape, config.filters, config.strides, **options),
        quantizer=quantize.named(config),
        likelihood=likelihoods.Normal(),
    )
    loss = codec.loss(model, config.windows, waveform=config.waveform, spectrum=config.spectrum, segment=config.segment)
    train = descend(loss, run.optimizer(config, info))
    return run.Experiment(model, train, loss, sequences=True, unit="per {value}", measures={"codebook": usage})


if __name__ == "__main__":
    run.main(Config, build)
