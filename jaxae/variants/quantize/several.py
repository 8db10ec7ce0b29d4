"""Several quantizers for one vector: residual and grouped quantizers."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Terms
from jaxae.core.divergences import per_example
from jaxae.variants.quantize.base import Estimator, Quantized, Quantizer, straight_through


class Residual(Quantizer):
    """Each quantizer gets the residual of those before it (Zeghidour, Luebs, Omran, Skoglund & Tagliasacchi 2021).

    The code is the sum of their codes, with the gradient of `estimator`; None: the sum of their gradients, as needed by
    Gumbel-softmax. `prepare` is that of the first quantizer; residuals are divided by its `shrink`. Indices have a last
    axis Q, and `embed` also accepts the first few of them, for a lower bit rate from the same model.
    dropout: probability that an example in training uses a random number of the first quantizers only, uniform from 1
    to Q (their section 3.4, quantizer dropout). Losses of the others are 0; their codebooks still learn from all
    residuals. Loss: the sum of the losses on the divided residuals; `quantization` is the squared error of the sum of
    all codes; other terms are means.
    ValueError for quantizers of different sizes, and for a dropout outside [0, 1].
    """

    layers: tuple[Quantizer, ...]
    dropout: float = 0.0
    estimator: Estimator | None = straight_through

    def __post_init__(self) -> None:
        _require_equal(self.layers)
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"quantizer_dropout={self.dropout} must be at least 0 and at most 1")
        super().__post_init__()

    @property
    def size(self) -> int:
        """The size of each quantizer."""
        return self.layers[0].size

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The vectors, prepared by the first quantizer."""
        return self.layers[0].prepare(z)

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:
        """The sum of the codes of all residuals."""
        fixed = jax.lax.stop_gradient
        kept = jnp.ones((len(z), len(self.layers)))
        if self.dropout and batch is not None and key is not None and batch.training:
            kept = self._kept(batch, jax.random.fold_in(key, len(self.layers)))
        codes, total, found = jnp.zeros_like(z), jnp.zeros_like(z), []
        for i, layer in enumerate(self.layers):
            scale, own = self._scale(i, z.ndim), None if key is None else jax.random.fold_in(key, i)
            one = layer.assign((z - fixed(total)) / scale, batch, own)
            total = total + scale * one.codes
            codes = codes + kept[:, i].reshape(-1, *[1] * (z.ndim - 1)) * scale * one.codes
            found.append(one._replace(terms={**one.terms, "loss": kept[:, i] * one.terms["loss"]}))
        if self.estimator is not None:
            codes = self.estimator(z, fixed(codes))
        terms = merged([one.terms for one in found])
        terms["quantization"] = per_example((z - fixed(total)) ** 2)
        return Quantized(codes, jnp.stack([one.indices for one in found], axis=-1), terms)

    def embed(self, indices: Int[Array, "B *P Q"]) -> Float[Array, "B *P Z"]:
        """The sum of the codes with these indices, of all quantizers or of the first ones."""
        parts = [self.layers[i].embed(indices[..., i]) for i in range(indices.shape[-1])]
        return sum((self._scale(i, part.ndim) * part for i, part in enumerate(parts[1:], 1)), start=parts[0])

    def _scale(self, i: int, axes: int) -> jax.Array:
        """Scale of stage i, along the last of `axes` axes."""
        return (jnp.atleast_1d(jnp.asarray(self.layers[0].shrink, jnp.float32)) ** i).reshape(*[1] * (axes - 1), -1)

    def _kept(self, batch: Batch, key: Key[Array, ""]) -> Float[Array, "B Q"]:
        """1 for the quantizers that an example uses."""
        q = len(self.layers)

        def one(key: Key[Array, ""]) -> Float[Array, " Q"]:
            often, many = jax.random.split(key)
            count = jnp.where(jax.random.uniform(often) < self.dropout, jax.random.randint(many, (), 1, q + 1), q)
            return (jnp.arange(q) < count).astype(jnp.float32)

        return jax.vmap(one)(batch.keys(key))


class Grouped(Quantizer):
    """Each quantizer gets an equal part of the channels (product quantization, Jegou, Douze & Schmid 2011).

    Indices have a last axis Q, those of the first part first. Loss and `quantization` are sums over the quantizers,
    other terms are means.
    ValueError for quantizers of different sizes, and if their number does not divide the number of channels.
    """

    layers: tuple[Quantizer, ...]

    def __post_init__(self) -> None:
        _require_equal(self.layers)
        super().__post_init__()

    @property
    def size(self) -> int:
        """The size of each quantizer."""
        return self.layers[0].size

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The parts, each prepared by its quantizer."""
        parts = zip(self.layers, self._parts(z), strict=True)
        return jnp.concatenate([layer.prepare(part) for layer, part in parts], axis=-1)

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:
        """The codes of all parts."""
        keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(self.layers))]
        found = [
            layer.assign(part, batch, own) for layer, part, own in zip(self.layers, self._parts(z), keys, strict=True)
        ]
        terms = merged([one.terms for one in found])
        terms["quantization"] = _added([one.terms["quantization"] for one in found])
        codes = jnp.concatenate([one.codes for one in found], axis=-1)
        several = found[0].indices.ndim == z.ndim
        join = jnp.concatenate if several else jnp.stack
        return Quantized(codes, join([one.indices for one in found], axis=-1), terms)

    def embed(self, indices: Int[Array, "B *P Q"]) -> Float[Array, "B *P Z"]:
        """The codes with these indices."""
        each = jnp.split(indices, len(self.layers), axis=-1)
        if each[0].shape[-1] == 1 and not isinstance(self.layers[0], Residual):
            each = [one[..., 0] for one in each]
        return jnp.concatenate([layer.embed(one) for layer, one in zip(self.layers, each, strict=True)], axis=-1)

    def nearest(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The nearest codes of all parts."""
        parts = zip(self.layers, self._parts(z), strict=True)
        return jnp.concatenate([layer.nearest(part) for layer, part in parts], axis=-1)

    def _parts(self, z: Float[Array, "B *P Z"]) -> list[Float[Array, "B *P z"]]:
        if z.shape[-1] % len(self.layers):
            raise ValueError(f"groups={len(self.layers)} does not divide {z.shape[-1]} channels; use a divisor")
        return jnp.split(z, len(self.layers), axis=-1)


def merged(terms: Sequence[Terms]) -> Terms:
    """The sum of the losses, and the means of the other terms."""
    means = {name: _added([one[name] for one in terms]) / len(terms) for name in terms[0]}
    return {**means, "loss": _added([one["loss"] for one in terms])}


def _added(values: Sequence[Float[Array, " B"]]) -> Float[Array, " B"]:
    return sum(values[1:], start=values[0])


def _require_equal(layers: tuple[Quantizer, ...]) -> None:
    if len({layer.size for layer in layers}) != 1:
        raise ValueError(f"layers have {[layer.size for layer in layers]} codes; use one or more of equal size")
