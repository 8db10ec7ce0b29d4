"""An autoregressive prior over the codes of a quantized autoencoder (van den Oord et al. 2017, section 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import log, prod
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.conditions import condition
from jaxae.core.experiment import Prior
from jaxae.core.types import Extra, Info, Variables
from jaxae.variants import vqvae

TOKENIZER = "tokenizer"


@dataclass(frozen=True)
class Options:
    """Fields of a prior over codes. For `class Config(code_prior.Options, vqvae.Config)`."""

    tokenizer: str = ""
    """Run directory of the vqvae or vqvae2 whose codes are modelled; it is read again when the prior is loaded.
    (default: a tokenizer that is trained at the same time)"""
    width: int = 64
    """Width of the transformer."""
    layers: int = 2
    """Number of layers of the transformer."""
    heads: int = 4
    """Number of attention heads in each layer."""
    class_conditional: bool = False
    """Whether the prior depends on the class and the covariates."""


class CodePrior(nn.Module):
    """p(indices) as a product over positions of p(index | indices before it), by a causal transformer.

    Codes, reconstructions and examples are those of the tokenizer. The indices of an example, [*P] or [*P, Q], are read
    row by row. trained: function that returns the variables of a trained tokenizer, which replace its initial ones.
    """

    tokenizer: vqvae.VQVAE
    prior: nn.Module  # a `CausalTransformer`
    shape: tuple[int, ...]  # of the indices of an example
    trained: Callable[[], Variables] | None = None

    def init(self, *args: Any, **options: Any) -> Any:
        """Initial variables of the prior, and those of the trained tokenizer if there is one."""
        variables = super().init(*args, **options)
        if self.trained is None:
            return variables
        return {
            **variables,
            **{name: {**variables[name], TOKENIZER: values} for name, values in self.trained().items()},
        }

    def __call__(self, x: Float[Array, "B *D"], c: Float[Array, "B c"] | None = None) -> Float[Array, "B T K"]:
        """Logits of the indices of these examples. c: condition, for a class-conditional prior."""
        found, _ = self.tokenizer(x)  # also the decoder, for its parameters
        return self.logits(found.indices, c)

    def logits(self, indices: Int[Array, "B *I"], c: Float[Array, "B c"] | None = None) -> Float[Array, "B T K"]:
        """Logits of each index."""
        found: jax.Array = self.prior(indices.reshape(len(indices), -1), c)
        return found

    def encode(self, x: Float[Array, "B *D"], c: Float[Array, "B c"] | None = None) -> Float[Array, "B *P Z"]:  # noqa: ARG002
        """The codes of the tokenizer, as vectors."""
        return self.tokenizer.encode(x)

    def decode(self, z: Float[Array, "B *P Z"], c: Float[Array, "B c"] | None = None) -> Float[Array, "B *D"]:  # noqa: ARG002
        """The mean of p(x|z) of the tokenizer."""
        return self.tokenizer.decode(z)

    def indices(self, x: Float[Array, "B *D"], c: Float[Array, "B c"] | None = None) -> Int[Array, "B *I"]:  # noqa: ARG002
        """The codes of the tokenizer, as indices."""
        return self.tokenizer.indices(x)

    @property
    def codes(self) -> int:
        """The number of codes."""
        return self.tokenizer.codes

    def sample(self, key: Key[Array, ""], n: int, c: Float[Array, "{n} c"] | None = None) -> Float[Array, "{n} *P Z"]:
        """Sample the codes of n examples, one index after the other, with a cache of keys and values."""
        net: Any = self.prior

        def one(carry: Any, place: tuple[Any, Any]) -> tuple[Any, Any]:
            before, caches = carry
            position, own = place
            logits, caches = net.step(before, c, position, caches)
            token = jax.random.categorical(own, logits)
            return (token, caches), token

        length = prod(self.shape)
        start = jnp.zeros(n, jnp.int32), net.caches(n)
        _, tokens = jax.lax.scan(one, start, (jnp.arange(length), jax.random.split(key, length)))
        return self.tokenizer.embed(tokens.T.reshape(n, *self.shape))


def index_shape(tokenizer: vqvae.VQVAE, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the indices of one example of this shape."""

    def indices(x: Float[Array, "1 *D"]) -> Int[Array, "1 *I"]:
        variables = tokenizer.init(jax.random.key(0), x)
        found: Any = tokenizer.apply(variables, x, method="indices")
        return found

    return jax.eval_shape(indices, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).shape[1:]


def loss(model: CodePrior, info: Info | None = None) -> Loss:
    """Exact -log p(indices), in nats per example. info: classes and covariates, for a conditional model.

    Only the prior receives a gradient. Terms: `loss`; `bits_per_index`, the same in bits, log2 K for uniform indices.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:  # noqa: ARG001
        c = () if info is None else (condition(batch.y, batch.context, info.classes),)
        indices: Any = model.apply(variables, batch.x, method="indices")
        logits: Any = model.apply(variables, indices, *c, method="logits")
        tokens = indices.reshape(len(indices), -1, 1)
        nats = -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), tokens, axis=-1), axis=(1, 2))
        return {"loss": nats, "bits_per_index": nats / (tokens.shape[1] * log(2))}, {}

    return objective


def tokenizer_loss(model: CodePrior) -> Loss:
    """The loss of the tokenizer, `vqvae.loss`, as a function of the variables of both."""
    own = vqvae.loss(model.tokenizer)

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        inner = {name: group[TOKENIZER] for name, group in variables.items() if TOKENIZER in group}
        terms, updates = own(inner, batch, key)
        return terms, {name: {TOKENIZER: values} for name, values in updates.items()}

    return objective


def prior(model: CodePrior) -> Prior:
    """A function that samples codes from the prior, given (variables, key, N) and, if conditional, the conditions."""

    @partial(jax.jit, static_argnums=2)
    def sample(variables: Variables, key: Key[Array, ""], n: int, *c: Float[Array, "n c"]) -> Float[Array, "n *code"]:
        found: Any = model.apply(variables, key, n, *c, method="sample")
        return found

    return sample
