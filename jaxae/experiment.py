"""What an experiment script hands over, and what a user gets back: a trained model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Num

from jaxae.errors import InputError
from jaxae.step import Transition
from jaxae.types import Extra, Loss, Params


@dataclass(frozen=True)
class Experiment:
    """A system: its model, how it is trained, how it is measured, and the figure that it should reach."""

    model: nn.Module  # with methods __call__(x), encode(x) -> codes and decode(codes) -> pixels in [0, 1]
    transition: Transition
    evaluate: Loss  # its metrics over the test split are reported
    prior: Callable[[Key[Array, ""], int], Float[Array, "N Z"]] | None = None  # codes to generate from
    expected: Mapping[str, float] = field(default_factory=dict)  # test metric -> at most this, from the source


@dataclass(frozen=True)
class Model:
    """A trained model. Images go in as [N, H, W, C], or [N, H, W] when grey, uint8 or float in [0, 1]."""

    experiment: Experiment
    params: Params
    extra: Extra
    shape: tuple[int, ...]  # of one example

    def encode(self, x: Num[Any, "N *D"]) -> Float[Array, "N *code"]:
        """Codes, float32; deterministic (the posterior mean for variational models)."""
        return self._apply("encode", self._images(x))

    def decode(self, z: Num[Any, "N *code"]) -> Float[Array, "N *D"]:
        """Images of these codes, float32 in [0, 1]. ValueError for codes of another shape."""
        z = jnp.asarray(z, jnp.float32)
        if z.shape[1:] != self.code:
            raise ValueError(f"codes have shape {z.shape}, not [N, {', '.join(map(str, self.code))}]")
        return self._apply("decode", z)

    def reconstruct(self, x: Num[Any, "N *D"]) -> Float[Array, "N *D"]:
        """decode(encode(x)): float32 in [0, 1]."""
        return self.decode(self.encode(x))

    def sample(self, key: Key[Array, ""], n: int) -> Float[Array, "n *D"]:
        """n images from the prior, float32 in [0, 1]. InputError for a model that is not generative."""
        if self.experiment.prior is None:
            raise InputError(f"{type(self.experiment.model).__name__} has no prior to sample from")
        return self.decode(self.experiment.prior(key, n))

    @cached_property
    def code(self) -> tuple[int, ...]:
        """Shape of one code."""
        one = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        return jax.eval_shape(lambda x: self._method("encode", x), one).shape[1:]

    def _method(self, name: str, x: jax.Array) -> jax.Array:
        result: Any = self.experiment.model.apply({"params": self.params, **self.extra}, x, method=name)
        return result

    def _apply(self, name: str, x: jax.Array, size: int = 1000) -> jax.Array:
        """In pieces, so that a whole data set fits into memory."""
        function = self._compiled[name]
        return jnp.concatenate([function(x[i : i + size]) for i in range(0, max(len(x), 1), size)])

    @cached_property
    def _compiled(self) -> dict[str, Callable[[jax.Array], jax.Array]]:
        def bind(name: str) -> Callable[[jax.Array], jax.Array]:
            return jax.jit(lambda x: self._method(name, x))

        return {name: bind(name) for name in ("encode", "decode")}

    def _images(self, x: Any) -> jax.Array:
        x = np.asarray(x)
        if x.shape[1:] == self.shape[:2] and self.shape[2:] == (1,):
            x = x[..., None]
        if x.shape[1:] != self.shape:
            raise ValueError(f"images have shape {x.shape}, not [N, {', '.join(map(str, self.shape))}]")
        if x.dtype == np.uint8:
            return jnp.asarray(x.astype(np.float32) / 255)
        x = jnp.asarray(x, jnp.float32)
        if x.size and not (x.min() >= 0 and x.max() <= 1):
            raise ValueError("pixels must be uint8, or float in [0, 1]")
        return x
