"""The encoder of BERT, from token ids to the residual stream after every layer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxae.nets.attention import attention

# Tensor of each parameter in a file of weights; {i} is the number of a layer. Linear maps are stored as [out, in].
TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "words/embedding": "embeddings.word_embeddings.weight",
        "positions/embedding": "embeddings.position_embeddings.weight",
        "types/embedding": "embeddings.token_type_embeddings.weight",
        "norm/scale": "embeddings.LayerNorm.weight",
        "norm/bias": "embeddings.LayerNorm.bias",
        "layer_{i}/query/kernel": "encoder.layer.{i}.attention.self.query.weight",
        "layer_{i}/query/bias": "encoder.layer.{i}.attention.self.query.bias",
        "layer_{i}/key/kernel": "encoder.layer.{i}.attention.self.key.weight",
        "layer_{i}/key/bias": "encoder.layer.{i}.attention.self.key.bias",
        "layer_{i}/value/kernel": "encoder.layer.{i}.attention.self.value.weight",
        "layer_{i}/value/bias": "encoder.layer.{i}.attention.self.value.bias",
        "layer_{i}/mixed/kernel": "encoder.layer.{i}.attention.output.dense.weight",
        "layer_{i}/mixed/bias": "encoder.layer.{i}.attention.output.dense.bias",
        "layer_{i}/mixed_norm/scale": "encoder.layer.{i}.attention.output.LayerNorm.weight",
        "layer_{i}/mixed_norm/bias": "encoder.layer.{i}.attention.output.LayerNorm.bias",
        "layer_{i}/inner/kernel": "encoder.layer.{i}.intermediate.dense.weight",
        "layer_{i}/inner/bias": "encoder.layer.{i}.intermediate.dense.bias",
        "layer_{i}/outer/kernel": "encoder.layer.{i}.output.dense.weight",
        "layer_{i}/outer/bias": "encoder.layer.{i}.output.dense.bias",
        "layer_{i}/outer_norm/scale": "encoder.layer.{i}.output.LayerNorm.weight",
        "layer_{i}/outer_norm/bias": "encoder.layer.{i}.output.LayerNorm.bias",
    }
)
# Name of each size in `config.json`.
SIZES: Mapping[str, str] = MappingProxyType(
    {
        "vocabulary": "vocab_size",
        "positions": "max_position_embeddings",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "inner": "intermediate_size",
        "layers": "num_hidden_layers",
    }
)


class Layer(nn.Module):
    """Self-attention and a dense net, each added to its input and normalized afterwards. [B, T, W] -> [B, T, W]."""

    heads: int
    inner: int
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T W"], mask: Bool[Array, "B T"]) -> Float[Array, "B T W"]:
        width = x.shape[-1]
        size = width // self.heads
        query, key, value = (
            nn.Dense(width, name=name)(x).reshape(*x.shape[:2], self.heads, size) for name in ("query", "key", "value")
        )
        mixed = attention(query, key, value, mask=mask).reshape(x.shape)
        x = nn.LayerNorm(self.epsilon, name="mixed_norm")(x + nn.Dense(width, name="mixed")(mixed))
        inner = nn.gelu(nn.Dense(self.inner, name="inner")(x), approximate=False)
        return nn.LayerNorm(self.epsilon, name="outer_norm")(x + nn.Dense(width, name="outer")(inner))


class Bert(nn.Module):
    """The encoder without dropout and pooling (Devlin, Chang, Lee & Toutanova 2019), up to a layer.

    It maps token ids [B, T] and a mask [B, T], True for tokens and False for padding, to the residual stream after the
    embeddings and after each layer: `layers` + 1 arrays [B, T, width], in which padding has arbitrary finite values.
    """

    vocabulary: int
    positions: int
    width: int
    heads: int
    inner: int
    layers: int
    types: int = 2
    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]) -> tuple[Float[Array, "B T W"], ...]:
        words = nn.Embed(self.vocabulary, self.width, name="words")(tokens)
        positions = nn.Embed(self.positions, self.width, name="positions")(jnp.arange(tokens.shape[1]))
        first = nn.Embed(self.types, self.width, name="types")(jnp.zeros(1, jnp.int32))
        x = nn.LayerNorm(self.epsilon, name="norm")(words + (positions + first)[None])
        states = [x]
        for i in range(self.layers):
            x = Layer(self.heads, self.inner, self.epsilon, name=f"layer_{i}")(x, mask)
            states.append(x)
        return tuple(states)


def of_config(config: Mapping[str, Any], layers: int | None = None) -> Bert:
    """The encoder that the `config.json` of a model describes. layers: only the first ones.

    ValueError for another architecture, and for a layer that the model does not have.
    """
    for name, ours in (("model_type", "bert"), ("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if (theirs := config.get(name, ours)) != ours:
            raise ValueError(f"{name}={theirs!r} is not supported; use a model with {name}={ours!r}")
    for name in SIZES.values():
        if type(config.get(name)) is not int or config[name] < 1:
            raise ValueError(f"{name}={config.get(name)!r} must be a positive integer")
    sizes = {field: config[name] for field, name in SIZES.items()}
    if layers is not None and not 0 <= layers <= sizes["layers"]:
        raise ValueError(f"layer={layers} does not exist; use 0 (the embeddings) to {sizes['layers']}")
    if sizes["width"] % sizes["heads"]:
        raise ValueError(f"hidden_size={sizes['width']} must be a multiple of num_attention_heads={sizes['heads']}")
    sizes["layers"] = sizes["layers"] if layers is None else layers
    return Bert(**sizes, types=config.get("type_vocab_size", 2), epsilon=config.get("layer_norm_eps", 1e-12))
