"""Transformers over tokens: a causal one, with a cache of keys and values for sampling, and one over masked tokens."""

from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxae.nets.attention import attention
from jaxae.nets.layers import dot_general


class Cache(NamedTuple):
    """Keys and values of one layer at all positions; zeros where they are not known yet."""

    key: Float[Array, "B T H D"]
    value: Float[Array, "B T H D"]


class Block(nn.Module):
    """Attention and a dense net of width 4 C, each of the normalized input and added to it: [B, T, C] -> [B, T, C].

    The pre-norm block of GPT-2 (Radford, Wu, Child, Luan, Amodei & Sutskever 2019).
    """

    width: int
    heads: int
    precision: str = "float32"
    causal: bool = True

    def setup(self) -> None:
        dot = dot_general(self.precision)
        self.norms = nn.LayerNorm(), nn.LayerNorm()
        self.parts = nn.Dense(3 * self.width, dot_general=dot)
        self.mixed = nn.Dense(self.width, dot_general=dot)
        self.inner, self.outer = nn.Dense(4 * self.width, dot_general=dot), nn.Dense(self.width, dot_general=dot)

    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """All positions; each attends to all, or if causal to those up to itself."""
        query, key, value = self._heads(x)
        places = jnp.arange(x.shape[1])
        mask = (places[:, None] >= places[None])[None] if self.causal else None
        return self._rest(x, query, Cache(key, value), mask)

    def step(self, x: Float[Array, "B 1 C"], position: Int[Array, ""], cache: Cache) -> tuple[jax.Array, Cache]:
        """One position [B, 1, C], given the cache of those before it; and the cache with its keys and values."""
        query, key, value = self._heads(x)
        cache = Cache(*(old.at[:, position].set(new[:, 0]) for old, new in zip(cache, (key, value), strict=True)))
        return self._rest(x, query, cache, (jnp.arange(cache.key.shape[1]) <= position)[None, None]), cache

    def _heads(self, x: Float[Array, "B T C"]) -> list[Float[Array, "B T H D"]]:
        parts = jnp.split(self.parts(self.norms[0](x)), 3, axis=-1)
        return [part.reshape(*x.shape[:2], self.heads, -1) for part in parts]

    def _rest(
        self, x: Float[Array, "B T C"], query: Float[Array, "B T H D"], cache: Cache, mask: Bool[Array, "1 T S"] | None
    ) -> Float[Array, "B T C"]:
        x = x + self.mixed(attention(query, *cache, self.precision, mask).reshape(x.shape))
        return x + self.outer(nn.gelu(self.inner(self.norms[1](x))))


class _Tokens(nn.Module):
    """The parts that both transformers share. ValueError unless the number of heads divides the width."""

    tokens: int  # K
    length: int  # T
    width: int = 64
    heads: int = 4
    layers: int = 2
    precision: str = "float32"

    causal: ClassVar[bool] = True
    others: ClassVar[int] = 0  # tokens from K on, which are inputs only

    def setup(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}; use a divisor")
        self.embedding = nn.Embed(self.tokens + self.others, self.width)
        self.places = self.param("places", nn.initializers.normal(0.02), (self.length, self.width))
        self.condition = nn.Dense(self.width, use_bias=False)
        self.blocks = tuple(Block(self.width, self.heads, self.precision, self.causal) for _ in range(self.layers))
        self.norm = nn.LayerNorm()
        self.logits = nn.Dense(self.tokens, kernel_init=nn.initializers.zeros)

    def _output(self, x: Float[Array, "B T C"]) -> Float[Array, "B T K"]:
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x))


class MaskedTransformer(_Tokens):
    """Logits of each of T tokens from all inputs, of which some are K, the mask token, and from a condition.

    A linear map of the condition is added to all inputs. The logits start at 0, those of a uniform distribution.
    ValueError unless the number of heads divides the width.
    """

    causal: ClassVar[bool] = False
    others: ClassVar[int] = 1

    def __call__(
        self, tokens: Int[Array, "B T"], condition: Float[Array, "B c"] | None = None
    ) -> Float[Array, "B T K"]:
        """Logits of every token."""
        x = self.embedding(tokens) + self.places[None]
        return self._output(x if condition is None else x + self.condition(condition)[:, None])


class CausalTransformer(_Tokens):
    """Logits of each of T tokens from the tokens before it, and from a condition.

    The first input is a learned vector plus a linear map of the condition, if there is one. The logits start at 0,
    those of a uniform distribution. ValueError unless the number of heads divides the width.
    """

    def setup(self) -> None:
        super().setup()
        self.start = self.param("start", nn.initializers.normal(0.02), (self.width,))

    def __call__(
        self, tokens: Int[Array, "B T"], condition: Float[Array, "B c"] | None = None
    ) -> Float[Array, "B T K"]:
        """Logits of every token."""
        first = self._first(len(tokens), condition)[:, None]
        x = jnp.concatenate([first, self.embedding(tokens[:, :-1])], axis=1) + self.places[None]
        return self._output(x)

    def step(
        self,
        before: Int[Array, " B"],
        condition: Float[Array, "B c"] | None,
        position: Int[Array, ""],
        caches: list[Cache],
    ) -> tuple[Float[Array, "B K"], list[Cache]]:
        """Logits of the token at this position, given the one before it (any at position 0) and the caches."""
        x = jnp.where(position == 0, self._first(len(before), condition), self.embedding(before))
        x, new = (x + jnp.take(self.places, position, axis=0)[None])[:, None], []
        for block, cache in zip(self.blocks, caches, strict=True):
            x, cache = block.step(x, position, cache)
            new.append(cache)
        return self.logits(self.norm(x))[:, 0], new

    def caches(self, n: int) -> list[Cache]:
        """Empty caches for n examples."""
        empty = jnp.zeros((n, self.length, self.heads, self.width // self.heads))
        return [Cache(empty, empty)] * self.layers

    def _first(self, n: int, condition: Float[Array, "B c"] | None) -> Float[Array, "B C"]:
        """The first input of n examples."""
        start = jnp.broadcast_to(self.start, (n, self.width))
        return start if condition is None else start + self.condition(condition)
