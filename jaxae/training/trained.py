"""A trained model, as a user gets it back."""

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, Num

from jaxae.core.batch import Batch
from jaxae.core.experiment import Experiment
from jaxae.core.types import Extra, Params, Sampler, Variables


@dataclass(frozen=True)
class Model:
    """A trained model. Images go in as [N, H, W, C], or [N, H, W] when grey, uint8 or float in [0, 1].

    Sequences go in as [N, T, D], those that are shorter than T with their lengths [N].
    """

    experiment: Experiment
    params: Params = field(repr=False)
    extra: Extra = field(repr=False)
    shape: tuple[int, ...]  # of one example

    def encode(self, x: Num[Any, "N *D"], lengths: Int[Any, " N"] | None = None) -> Float[Array, "N *code"]:
        """Codes, float32; deterministic (the posterior mean for variational models)."""
        x = self._images(x)
        if lengths is None:
            return self._apply("encode", x)
        if not self.experiment.sequences:
            raise ValueError(f"{type(self.experiment.model).__name__} takes no lengths: it is not for sequences")
        return self._apply("encode", x, (np.arange(x.shape[1]) < np.asarray(lengths)[:, None]).astype(np.float32))

    def decode(self, z: Num[Any, "N *code"]) -> Float[Array, "N *D"]:
        """Images of these codes, float32 in [0, 1]. ValueError for codes of another shape."""
        z = jnp.asarray(z, jnp.float32)
        if z.shape[1:] != self.code:
            raise ValueError(f"codes have shape {z.shape}, not [N, {', '.join(map(str, self.code))}]")
        return self._apply("decode", z)

    def reconstruct(self, x: Num[Any, "N *D"], lengths: Int[Any, " N"] | None = None) -> Float[Array, "N *shape"]:
        """decode(encode(x)): float32 in [0, 1]."""
        return self.decode(self.encode(x, lengths))

    def corrupted(self, x: Num[Any, "N *D"]) -> Float[Array, "N *shape"]:
        """The images as the encoder sees them in training, with the noise that it is to remove where there is one."""
        images = self._images(x)
        if self.experiment.corrupt is None:
            return images
        batch = Batch(images, jnp.arange(len(images)), jnp.ones(len(images)), jnp.int32(0))
        return self.experiment.corrupt(jax.random.key(0), batch)

    def sample(self, key: Key[Array, ""], n: int, prior: Sampler | None = None) -> Float[Array, "n *D"]:
        """n images from the model's own prior, or from another one, as `mixture.fit` gives: float32 in [0, 1].

        ValueError for a model that has none.
        """
        if prior is not None:
            return self.decode(prior(key, n))
        if self.experiment.prior is None:
            raise ValueError(
                f"{type(self.experiment.model).__name__} has no prior to sample from: give one that is fitted to its "
                "codes, as jaxae.mixture.fit does"
            )
        return self.decode(self.experiment.prior(self.variables, key, n))

    @cached_property
    def code(self) -> tuple[int, ...]:
        """Shape of one code."""
        one = jax.ShapeDtypeStruct((1, *self.shape), jnp.float32)
        return jax.eval_shape(lambda x: _method(self.experiment.model, "encode", self.variables, x), one).shape[1:]

    @property
    def variables(self) -> Variables:
        """Parameters and the other collections, as Flax's `apply` takes them."""
        return {"params": self.params, **self.extra}

    def _apply(self, name: str, *args: Any, size: int = 1000) -> jax.Array:
        """In pieces, so that a whole data set fits into memory."""
        starts = range(0, max(len(args[0]), 1), size)
        pieces = (tuple(x[i : i + size] for x in args) for i in starts)
        return jnp.concatenate([_method(self.experiment.model, name, self.variables, *piece) for piece in pieces])

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


def layers(model: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """The layers of encoder, decoder and the whole, as tables: name, output shape, parameters. shape: of an example."""
    key, x = jax.random.key(0), jnp.zeros((1, *shape))
    z = jnp.zeros(jax.eval_shape(lambda: model.init_with_output(key, x, method="encode"))[0].shape)
    wide = {"width": 160, "force_terminal": False, "no_color": True}
    tables = {"encoder": (x, "encode"), "decoder": (z, "decode"), "end to end": (x, "__call__")}
    return {
        name: nn.tabulate(model, key, console_kwargs=wide)(argument, method=method)
        for name, (argument, method) in tables.items()
    }


@partial(jax.jit, static_argnums=(0, 1))
def _method(model: nn.Module, name: str, variables: dict[str, Any], *args: jax.Array) -> jax.Array:
    result: Any = model.apply(variables, *args, method=name)
    return result
