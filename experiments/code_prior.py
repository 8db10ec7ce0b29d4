"""A causal transformer over the codes of a quantized autoencoder, to sample from: exact likelihood of the codes.

The tokenizer is that of a finished run of `vqvae`, --tokenizer, which stays as it is; otherwise it is trained beside
the prior, with the fields of `vqvae`, and `loss` becomes comparable between epochs when its codes stop moving.

Group: quantized
Source: van den Oord, Vinyals & Kavukcuoglu 2017, section 3.3; a transformer (Vaswani et al. 2017) for their PixelCNN.
Published: no result for these data (van den Oord et al. 2017).
Command: jaxae code_prior --data mnist
"""

import dataclasses
from dataclasses import dataclass
from math import prod
from pathlib import Path

from jaxae import nets, run
from jaxae.core.step import alternate, descend
from jaxae.experiments import vqvae as plain
from jaxae.measure.codebook import usage
from jaxae.run.read import load
from jaxae.variants import code_prior, quantize, vqvae

OF_TOKENIZER = {"filters", *(field.name for field in dataclasses.fields(quantize.Options))}


@dataclass(frozen=True)
class Config(plain.Config):
    """Two layers of width 64 with four heads, Adam; tokenizer as in `vqvae`."""

    tokenizer: str = ""
    """Run directory of vqvae whose codes are modelled, also when the prior is loaded. (default: a tokenizer that is
    trained at the same time)"""
    width: int = 64
    """Width of the transformer."""
    layers: int = 2
    """Number of layers of the transformer."""
    heads: int = 4
    """Number of attention heads in each layer."""
    class_conditional: bool = False
    """Whether the prior depends on class and covariates."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    trained = None
    if config.tokenizer:
        _require_effect(config)
        there = load(Path(config.tokenizer))
        found = there.experiment.model
        if not isinstance(found, vqvae.VQVAE) or there.shape != info.shape or len(there) > 1:
            raise ValueError(f"tokenizer={config.tokenizer} must be a run of vqvae with one seed on {info.shape} data")
        tokenizer, trained = found, lambda: there.variables
    else:
        tokenizer = plain.model(config, info)
    shape = code_prior.index_shape(tokenizer, info.shape)
    net = nets.CausalTransformer(
        tokenizer.codes, prod(shape), config.width, config.heads, config.layers, precision=config.precision
    )
    model = code_prior.CodePrior(tokenizer, net, shape, trained)
    loss = code_prior.loss(model, info if config.class_conditional else None)
    train = descend(loss, run.optimizer(config, info), wrt=("prior",))
    if trained is None:
        own = descend(code_prior.tokenizer_loss(model), run.optimizer(config, info), ("tokenizer",), "tokenizer_loss")
        train = alternate(own, train)
    return run.Experiment(
        model,
        train,
        loss,
        code_prior.prior(model),
        conditional=config.class_conditional,
        measures={"codebook": usage},
    )


def _require_effect(config: Config) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in OF_TOKENIZER and value != field.default:
            raise ValueError(f"{field.name}={value} has no effect with tokenizer={config.tokenizer}; omit it")


if __name__ == "__main__":
    run.main(Config, build)
