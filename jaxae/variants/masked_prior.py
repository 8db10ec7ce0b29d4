"""MaskGIT: a bidirectional transformer prior over the codes of a quantized autoencoder.

It is sampled by parallel decoding of masked codes (Chang, Zhang, Jiang, Liu & Freeman 2022).
"""

from math import cos, floor, log, pi, prod
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.conditions import condition
from jaxae.core.types import Extra, Info, Variables
from jaxae.variants.code_prior import CodePrior


class MaskedPrior(CodePrior):
    """p(index | unmasked indices), by a bidirectional transformer; K is the mask token.

    `prior` is a `MaskedTransformer`. Sampling starts with all indices masked. Each of `steps` steps samples all masked
    indices and masks the least confident ones again (section 3.2 of the paper). The confidence in step s is the log
    probability of the sample plus temperature (1 - s / steps) g with Gumbel noise g, as in the authors' code.
    ValueError unless steps is from 1 to the number of indices.
    """

    steps: int = 8
    temperature: float = 4.5

    def sample(self, key: Key[Array, ""], n: int, c: Float[Array, "{n} c"] | None = None) -> Float[Array, "{n} *P Z"]:
        """Sample the codes of n examples."""
        length = prod(self.shape)
        heat = self.temperature * (1 - jnp.arange(1, self.steps + 1) / self.steps)

        def one(tokens: Any, given: tuple[Any, Any, Any]) -> tuple[Any, None]:
            count, heat, own = given
            choice, order = jax.random.split(own)
            log_p, is_masked = jax.nn.log_softmax(self.logits(tokens, c)), tokens == self.codes
            filled = jnp.where(is_masked, jax.random.categorical(choice, log_p), tokens)
            chosen = jnp.take_along_axis(log_p, filled[..., None], axis=-1)[..., 0]
            confidence = jnp.where(is_masked, chosen + heat * jax.random.gumbel(order, chosen.shape), jnp.inf)
            return jnp.where(_ranks(confidence) < count, self.codes, filled), None

        start = jnp.full((n, length), self.codes)
        given = jnp.array(masked_counts(length, self.steps)), heat, jax.random.split(key, self.steps)
        tokens = jax.lax.scan(one, start, given)[0]
        return self.tokenizer.embed(tokens.reshape(n, *self.shape))


def masked_counts(length: int, steps: int) -> list[int]:
    """Number of masked indices after each step: floor(length cos(pi s / (2 steps))), the cosine schedule.

    Each step unmasks at least one index. ValueError unless steps is from 1 to length.
    """
    if not 1 <= steps <= length:
        raise ValueError(f"steps={steps} must be from 1 to the {length} indices of an example")
    counts, before = [], length
    for step in range(1, steps + 1):
        wanted = floor(length * cos(pi / 2 * step / steps) + 1e-9)
        before = max(min(wanted, before - 1), steps - step)
        counts.append(before)
    return counts


def loss(model: MaskedPrior, info: Info | None = None) -> Loss:
    """-log p of masked indices given the others, in nats per masked index.

    info: classes and covariates, for a conditional model.

    A fraction cos(pi u / 2), rounded up, of the indices of an example is masked, with u uniform in [0, 1) and uniformly
    random positions (the paper's sections 3.1 and 3.3). Only the prior receives a gradient.

    Terms: `loss`; `accuracy` of the most probable index at masked positions. In evaluation `bits_per_index`, a bound
    for sampling the indices one by one in random order: with n of T indices masked, n uniform from 1 to T, the
    expectation of T / n times the sum of -log p of the masked ones is at least -log p of all (Uria, Murray & Larochelle
    2014; Hoogeboom et al. 2022, equation 6). That of `code_prior` is exact.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        c = () if info is None else (condition(batch.y, batch.context, info.classes),)
        found: Any = model.apply(variables, batch.x, method="indices")
        indices = found.reshape(len(found), -1)

        def nats(is_masked: Bool[Array, "B T"]) -> tuple[Float[Array, "B T"], Bool[Array, "B T"]]:
            """-log p of masked indices, 0 for the others; and whether each masked index is the most probable one."""
            logits: Any = model.apply(variables, jnp.where(is_masked, model.codes, indices), *c, method="logits")
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), indices[..., None], axis=-1)[..., 0]
            return jnp.where(is_masked, -log_p, 0), is_masked & (jnp.argmax(logits, -1) == indices)

        length = indices.shape[1]
        cosine, uniform = jax.random.split(key)
        is_masked = masks(batch, cosine, length)
        missing, right = nats(is_masked)
        count = is_masked.sum(1)
        terms = {"loss": missing.sum(1) / count, "accuracy": right.sum(1) / count}
        if not batch.training:
            is_masked = masks(batch, uniform, length, uniform=True)
            bound = nats(is_masked)[0].sum(1) * length / is_masked.sum(1)
            terms["bits_per_index"] = bound / (length * log(2))
        return terms, {}

    return objective


def masks(batch: Batch, key: Key[Array, ""], length: int, *, uniform: bool = False) -> Bool[Array, "B {length}"]:
    """Which indices of each example are masked: ceil(length cos(pi u / 2)) of them, or from 1 to length uniformly."""

    def one(key: Key[Array, ""]) -> Bool[Array, " _"]:
        number, places = jax.random.split(key)
        u = jax.random.uniform(number)
        share = 1 - u if uniform else jnp.cos(pi / 2 * u)
        return _ranks(jax.random.uniform(places, (length,))) < jnp.ceil(share * length)

    return jax.vmap(one)(batch.keys(key))


def _ranks(values: Float[Array, "*B T"]) -> Int[Array, "*B T"]:
    """The rank of each value among those of its row, from 0, the smallest."""
    return jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)
