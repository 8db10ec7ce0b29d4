"""An autoregressive transformer prior over the codes of a quantized autoencoder, with exact likelihood of the codes.

The tokenizer is that of a finished run of `vqvae` or `vqvae2` (--tokenizer), which is not trained further. By default
it is trained together with the prior, with the fields of `vqvae`; then `loss` is comparable between epochs only once
its codes are stable.

Group: quantized
Source: van den Oord, Vinyals & Kavukcuoglu 2017, section 3.3; a transformer (Vaswani et al. 2017) replaces their
PixelCNN.
Published: no result for these data (van den Oord et al. 2017).
Command: jaxae code_prior --data mnist
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from jaxae import nets, run
from jaxae.core.batch import Loss
from jaxae.core.step import alternate, descend
from jaxae.core.types import Variables
from jaxae.experiments import vqvae as plain
from jaxae.measure.codebook import usage
from jaxae.run.read import load
from jaxae.variants import code_prior, quantize, vqvae

OF_TOKENIZER = {"filters", *(field.name for field in dataclasses.fields(quantize.Options))}


@dataclass(frozen=True)
class Config(code_prior.Options, plain.Config):
    """Two layers of width 64 with four heads, Adam; tokenizer as in `vqvae`."""


def build(config: Config, info: run.Info) -> run.Experiment:
    """The experiment for images of this shape."""
    tokenizer, shape, trained = tokenized(config, config.tokenizer, info)
    net = nets.CausalTransformer(
        tokenizer.codes, prod(shape), config.width, config.heads, config.layers, precision=config.precision
    )
    model = code_prior.CodePrior(tokenizer, net, shape, trained)
    loss = code_prior.loss(model, info if config.class_conditional else None)
    return experiment(config, info, model, loss, conditional=config.class_conditional)


class Tokenized(NamedTuple):
    """A tokenizer, the shape of the indices of an example, and its variables if it is trained already."""

    tokenizer: vqvae.VQVAE
    shape: tuple[int, ...]
    trained: Callable[[], Variables] | None


def tokenized(config: plain.Config, directory: str, info: run.Info) -> Tokenized:
    """The tokenizer of this run directory; an untrained one if the directory is "".

    ValueError unless it is a run of vqvae or vqvae2 with one seed on examples of this shape, and for fields without
    effect.
    """
    if not directory:
        own = plain.model(config, info)
        return Tokenized(own, code_prior.index_shape(own, info.shape), None)
    _require_effect(config, directory)
    there = load(Path(directory))
    found = there.experiment.model
    if not isinstance(found, vqvae.VQVAE) or there.shape != info.shape or len(there) > 1:
        raise ValueError(f"tokenizer={directory} must be a run of vqvae or vqvae2 with one seed on {info.shape} data")
    return Tokenized(found, code_prior.index_shape(found, info.shape), lambda: there.variables)


def experiment(
    config: plain.Config, info: run.Info, model: code_prior.CodePrior, loss: Loss, *, conditional: bool
) -> run.Experiment:
    """The experiment of a prior with this loss, which also trains the tokenizer unless it is trained already."""
    train = descend(loss, run.optimizer(config, info), wrt=("prior",))
    if model.trained is None:
        own = descend(code_prior.tokenizer_loss(model), run.optimizer(config, info), ("tokenizer",), "tokenizer_loss")
        train = alternate(own, train)
    return run.Experiment(
        model,
        train,
        loss,
        code_prior.prior(model),
        conditional=conditional,
        measures={"codebook": usage},
    )


def _require_effect(config: plain.Config, directory: str) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in OF_TOKENIZER and value != field.default:
            raise ValueError(f"{field.name}={value} has no effect with tokenizer={directory}; omit it")


if __name__ == "__main__":
    run.main(Config, build)
