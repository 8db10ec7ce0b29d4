"""MaskGIT: a bidirectional transformer prior over the codes of a quantized autoencoder.

It is sampled by parallel decoding of masked codes. The tokenizer is that of a finished run (--tokenizer), or is trained
together with the prior, as in `code_prior`.

Group: quantized
Source: Chang, Zhang, Jiang, Liu & Freeman 2022, without label smoothing and guidance; a pre-norm transformer.
Published: no result for these data (Chang et al. 2022).
Command: jaxae masked_prior --data mnist
"""

from dataclasses import dataclass
from math import prod

from jaxae import nets, run
from jaxae.experiments import code_prior as causal
from jaxae.experiments import vqvae as plain
from jaxae.variants import code_prior, masked_prior


@dataclass(frozen=True)
class Config(code_prior.Options, plain.Config):
    """Two layers of width 64 with four heads, Adam; tokenizer as in `vqvae`."""

    steps: int = 8
    """Number of decoding steps of a sample."""
    choice_temperature: float = 4.5
    """Temperature of the Gumbel noise that is added to the confidence of the sampled codes in the first steps (0: each
    step keeps the most probable ones)."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    tokenizer, shape, trained = causal.tokenized(config, config.tokenizer, info)
    masked_prior.masked_counts(prod(shape), config.steps)  # raises for steps out of range
    net = nets.MaskedTransformer(
        tokenizer.codes, prod(shape), config.width, config.heads, config.layers, precision=config.precision
    )
    model = masked_prior.MaskedPrior(
        tokenizer, net, shape, trained, steps=config.steps, temperature=config.choice_temperature
    )
    loss = masked_prior.loss(model, info if config.class_conditional else None)
    return causal.experiment(config, info, model, loss, conditional=config.class_conditional)


if __name__ == "__main__":
    run.main(Config, build)
