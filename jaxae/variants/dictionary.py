"""The sparse autoencoder: a linear encoder and decoder with sparse codes, the weights of a learned dictionary.

Its activation rule (`Rule`) is a record: see `top_k.py`, `jump_relu.py`, `gated.py` and `matching_pursuit.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.batch import Batch
from jaxae.core.divergences import per_example
from jaxae.nets.layers import dot_general

STATISTICS = "statistics"  # collection of the variables that are not trained by gradient


class Weights(NamedTuple):
    """The weights that an activation rule uses: n latents of inputs with d values."""

    encoder: Float[Array, "d n"]
    encoder_bias: Float[Array, " n"]
    decoder: Float[Array, "n d"]
    own: Mapping[str, Float[Array, "*n"]]  # parameters [n] and statistics of the rule
    precision: str = "float32"

    def preactivations(self, v: Float[Array, "B d"]) -> Float[Array, "B n"]:
        """v W + b of centred inputs v."""
        return product(v, self.encoder, self.precision) + self.encoder_bias[None]


Statistics: TypeAlias = Mapping[str, Float[Array, ""]]  # new values of a rule's statistics


@dataclass(frozen=True)
class Rule:
    """Codes are relu(v W + b); the penalty is their L1 norm (Bricken et al. 2023).

    An architecture is a subclass: `codes` are those of inference, `train` those of training.
    """

    @property
    def parameters(self) -> Mapping[str, float]:
        """Initial values of the parameters of the rule, each [n]."""
        return {}

    @property
    def statistics(self) -> Mapping[str, float]:
        """Initial values of the statistics of the rule (not trained by gradient)."""
        return {}

    @property
    def of_codes(self) -> tuple[str, ...]:
        """Names of the parameters in units of the codes."""
        return ()

    @property
    def tied(self) -> bool:
        """Whether the decoder is the encoder's transpose, so that the model has no encoder parameters."""
        return False

    def codes(self, v: Float[Array, "B d"], weights: Weights) -> Float[Array, "B n"]:
        """Codes of centred inputs in inference."""
        return nn.relu(weights.preactivations(v))

    def train(
        self,
        v: Float[Array, "B d"],
        weights: Weights,
        batch: Batch,  # noqa: ARG002
    ) -> tuple[Float[Array, "B n"], Statistics]:
        """Codes and statistics in training."""
        return self.codes(v, weights), {}

    def penalty(
        self,
        v: Float[Array, "B d"],  # noqa: ARG002
        weights: Weights,  # noqa: ARG002
        z: Float[Array, "B n"],
    ) -> Float[Array, " B"] | None:
        """Penalty on the codes, before its coefficient; None without one."""
        return per_example(z)

    def error(self, v: Float[Array, "B d"], weights: Weights) -> Float[Array, " B"] | None:  # noqa: ARG002
        """A squared error in addition to that of the reconstruction; None without one."""
        return None


def unit_rows(norm: float = 1.0) -> nn.initializers.Initializer:
    """Random rows of this norm, in uniform directions."""

    def start(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "n d"]:
        rows = jax.random.normal(key, shape)
        return norm * rows / norms(rows)[:, None]

    return start


class Start(NamedTuple):
    """Initial values."""

    rows: nn.initializers.Initializer = unit_rows()  # of the decoder; the encoder starts as its transpose
    bias: nn.initializers.Initializer = nn.initializers.zeros  # of the decoder, in scaled units
    scale: Any = 1.0  # factor of the inputs, which is not trained


class SparseAutoencoder(nn.Module):
    """z = rule(v W + b) with centred inputs v = s x - c; reconstructions are (z D + c) / s.

    W [d, n] is the encoder, b [n] its bias, D [n, d] the decoder, c [d] its bias, s the input scale.

    rescaled: the decoder's rows are divided by their norms, and the encoder, its bias and those parameters of the rule
    that are in units of the codes are multiplied by them, so that the decoder has rows of norm 1 whatever its
    parameters (Anthropic's April update 2024: activations times decoder norm).
    """

    shape: tuple[int, ...]  # of an example
    latent: int  # n
    rule: Rule = Rule()
    rescaled: bool = False
    start: Start = Start()
    precision: str = "float32"

    def setup(self) -> None:
        d, n = prod(self.shape), self.latent
        self.decoder = self.param("decoder", self.start.rows, (n, d))
        if not self.rule.tied:
            self.encoder = self.param("encoder", lambda _: self.decoder.T)
            self.encoder_bias = self.param("encoder_bias", nn.initializers.zeros, (n,))
        self.decoder_bias = self.param("decoder_bias", self.start.bias, (d,))
        initial = self.rule.parameters.items()
        self.own = {name: self.param(name, nn.initializers.constant(value), (n,)) for name, value in initial}
        numbers = {"scale": self.start.scale, "multiplier": 1.0, "average": 0.0, **self.rule.statistics}
        self.numbers = {
            name: self.variable(STATISTICS, name, jnp.asarray, value, jnp.float32) for name, value in numbers.items()
        }
        # Steps since each latent was active.
        self.unused = self.variable(STATISTICS, "unused", jnp.zeros, (n,), jnp.int32)

    def __call__(self, x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
        """Reconstructions."""
        return self.decode(self.encode(x))

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B n"]:
        """Codes, by the rule of inference."""
        return self.rule.codes(self.centred(self.scaled(x)), self.weights())

    def decode(self, z: Float[Array, "B n"]) -> Float[Array, "B *D"]:
        """Reconstructions."""
        x = product(z, self.weights().decoder, self.precision) + self.decoder_bias[None]
        return (x / self.numbers["scale"].value).reshape(-1, *self.shape)

    def scaled(self, x: Float[Array, "B *D"]) -> Float[Array, "B d"]:
        """The inputs as rows, times the input scale."""
        return self.numbers["scale"].value * x.reshape(len(x), -1)

    def centred(self, x: Float[Array, "B d"]) -> Float[Array, "B d"]:
        """Scaled inputs minus the decoder bias."""
        return x - self.decoder_bias[None]

    def weights(self) -> Weights:
        """The weights, rescaled if configured."""
        own = {**self.own, **{name: self.numbers[name].value for name in self.rule.statistics}}
        if self.rule.tied:
            return Weights(self.decoder.T, jnp.zeros(self.latent), self.decoder, own, self.precision)
        found = Weights(self.encoder, self.encoder_bias, self.decoder, own, self.precision)
        return rescale(found, self.rule) if self.rescaled else found


def rescale(weights: Weights, rule: Rule) -> Weights:
    """Weights with decoder rows of norm 1 and the same reconstructions; codes are multiplied by the former norms."""
    norm = norms(weights.decoder)
    return weights._replace(
        encoder=weights.encoder * norm[None],
        encoder_bias=weights.encoder_bias * norm,
        decoder=weights.decoder / norm[:, None],
        own={name: value * norm if name in rule.of_codes else value for name, value in weights.own.items()},
    )


def norms(rows: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Euclidean norm of each row, with gradient 0 at a row of zeros."""
    square = jnp.sum(rows**2, axis=1)
    return jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))


def product(a: Float[Array, "B I"], b: Float[Array, "I O"], precision: str = "float32") -> Float[Array, "B O"]:
    """Matrix product in this precision."""
    return dot_general(precision)(a, b, (((1,), (0,)), ((), ())))
