"""Convolutions whose derivatives of any order are fast on CPU.

Inside a loop, XLA on CPU runs the convolutions of autodiff through a naive path (5,800 ms per step instead of 170). The
convolution, its gradient with respect to the image (the transposed convolution) and its gradient with respect to the
kernel are each bilinear in two of the three arrays image, kernel and result; the derivatives of each operation are the
other two operations. The first two take the fast path in the layout NHWC, HWIO; the third, computed as matrix products
of the pixels under each tap, takes half the time of a convolution (`denoising` at batch size 512: 334 ms per step
instead of 481). Other backends use XLA's derivatives, except in mixed precision.
"""

from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

IN_CACHE = 5 << 16  # float32 values that fit into the cache of a core, 1.3 MB


class Geometry(NamedTuple):
    """Static arguments of a convolution on images of `size` pixels; padding: (low, high) of height and width."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: int
    padding: tuple[tuple[int, int], ...]
    precision: str

    @property
    def out(self) -> list[int]:
        """Height and width of the result."""
        axes = zip(self.size, self.kernel, self.padding, strict=True)
        return [(n + sum(pad) - k) // self.stride + 1 for n, k, pad in axes]


def _geometry(size: tuple[int, int], w: jax.Array, stride: int, padding: str, precision: str) -> Geometry:
    kernel = (w.shape[0], w.shape[1])
    pads = lax.padtype_to_pads(size, kernel, (stride, stride), padding)
    return Geometry(size, kernel, stride, tuple(pads), precision)


def conv(
    x: Float[Array, "B H W I"],
    w: Float[Array, "kh kw I O"],
    stride: int = 1,
    padding: str = "SAME",
    precision: str = "float32",
) -> Float[Array, "B h w O"]:
    """Cross-correlation of images with a kernel, like `jax.lax.conv_general_dilated`; padding is SAME or VALID."""
    geometry = _geometry((x.shape[1], x.shape[2]), w, stride, padding, precision)
    return (_conv if _own(precision) else _image_to_result)(x, w, geometry)


def conv_transpose(
    x: Float[Array, "B h w O"],
    w: Float[Array, "kh kw I O"],
    size: tuple[int, int],
    stride: int = 1,
    padding: str = "SAME",
    precision: str = "float32",
) -> Float[Array, "B H W I"]:
    """The transpose (adjoint) of `conv` on images of `size` = (H, W). ValueError for a wrong shape of x."""
    geometry = _geometry(size, w, stride, padding, precision)
    if list(x.shape[1:3]) != geometry.out:
        raise ValueError(f"x has {list(x.shape[1:3])} pixels; a convolution of {size} has {geometry.out}")
    return (_conv_transpose if _own(precision) else _result_to_image)(x, w, geometry)


def _convolve(lhs: jax.Array, rhs: jax.Array, stride: int, padding: Any, precision: str, **dilation: Any) -> jax.Array:
    def convolve(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        lhs, rhs = _rounded(precision, lhs, rhs)
        return lax.conv_general_dilated(
            lhs,
            rhs,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.float32,
            **dilation,
        )

    # XLA turns an axis of seeds into grouped convolutions, which are slow on CPU; loop over the seeds instead.
    return (sequential_vmap(convolve) if _on_cpu() else convolve)(lhs, rhs)


def _own(precision: str) -> bool:
    """Whether to use the derivatives of this module, since autodiff is slow on CPU and float32 in mixed precision."""
    return _on_cpu() or precision == "mixed"


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _image_to_result(x: jax.Array, w: jax.Array, to: Geometry) -> jax.Array:
    return _convolve(x, w, to.stride, to.padding, to.precision)


def _result_to_image(g: jax.Array, w: jax.Array, to: Geometry) -> jax.Array:
    padding = []
    for n, k, m, (low, _) in zip(to.size, to.kernel, to.out, to.padding, strict=True):
        padding.append((k - 1 - low, n - 1 - to.stride * (m - 1) + low))
    flipped = w[::-1, ::-1].swapaxes(2, 3)
    return _convolve(g, flipped, 1, padding, to.precision, lhs_dilation=(to.stride, to.stride))


def _to_kernel(x: jax.Array, g: jax.Array, to: Geometry) -> jax.Array:
    if not _on_cpu():
        return _convolved_to_kernel(x, g, to)

    def of_all(x: jax.Array, g: jax.Array) -> jax.Array:
        n, spread = len(x), prod(to.out) * to.kernel[1] * x.shape[3]
        chunk = max(size for size in range(1, n + 1) if n % size == 0 and (size * spread <= IN_CACHE or size == 1))
        if chunk == n or (chunk == 1 and n * spread <= 32 * IN_CACHE):
            return _multiplied_to_kernel(x, g, to)
        xs, gs = (array.reshape(n // chunk, chunk, *array.shape[1:]) for array in (x, g))
        zero = jnp.zeros((*to.kernel, x.shape[3], g.shape[3]))
        return lax.fori_loop(0, n // chunk, lambda i, w: w + _multiplied_to_kernel(xs[i], gs[i], to), zero)

    return sequential_vmap(of_all)(x, g)


def _convolved_to_kernel(x: jax.Array, g: jax.Array, to: Geometry) -> jax.Array:
    padding = []
    for n, k, m, (low, _) in zip(to.size, to.kernel, to.out, to.padding, strict=True):
        padding.append((low, k - n - low + to.stride * (m - 1)))
    lhs, rhs = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
    w = _convolve(lhs, rhs, 1, padding, to.precision, rhs_dilation=(to.stride, to.stride))
    return w.transpose(1, 2, 0, 3)


def _multiplied_to_kernel(x: jax.Array, g: jax.Array, to: Geometry) -> jax.Array:
    """Matrix products of im2col patches: one product for each row of the kernel."""
    x, g = _rounded(to.precision, x, g)
    edges = zip(to.size, to.kernel, to.out, to.padding, strict=True)
    pads = [(low, to.stride * (m - 1) + k - n - low, 0) for n, k, m, (low, _) in edges]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
    (high, wide), (height, width), s = to.kernel, to.out, to.stride
    inputs, filters = x.shape[3], g.shape[3]

    def spread(a: int) -> jax.Array:
        """[B h w, kw I]: the patches of all outputs under row a of the kernel."""
        rows = x[:, a : a + s * (height - 1) + 1 : s]
        taps = [rows[:, :, b : b + s * (width - 1) + 1 : s] for b in range(wide)]
        return jnp.concatenate(taps, 3).reshape(-1, wide * inputs)

    g = g.reshape(-1, filters)
    if inputs == 1:  # a single product for all rows of the kernel, which are too narrow for one each
        return (jnp.concatenate([spread(a) for a in range(high)], 1).T @ g).reshape(high, wide, 1, filters)
    gt = lax.optimization_barrier(g.T)  # materialized, since a fused transpose doubles the time of the product
    w = jnp.stack([gt @ spread(a) for a in range(high)])
    return w.reshape(high, filters, wide, inputs).transpose(0, 2, 3, 1)


def _rounded(precision: str, *operands: jax.Array) -> list[jax.Array]:
    """Operands in bfloat16 if mixed; on CPU rounded to bfloat16 but kept in float32, whose products are faster."""
    if precision == "mixed":
        return [lax.reduce_precision(v, 8, 7) if _on_cpu() else v.astype(jnp.bfloat16) for v in operands]
    return list(operands)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x: jax.Array, w: jax.Array, to: Geometry) -> jax.Array:
    return _image_to_result(x, w, to)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_transpose(g: jax.Array, w: jax.Array, to: Geometry) -> jax.Array:
    return _result_to_image(g, w, to)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel(x: jax.Array, g: jax.Array, to: Geometry) -> jax.Array:
    return _to_kernel(x, g, to)


# Each is bilinear in two of image, kernel and result, so its derivatives of any order are the other two operations.
_conv.defvjp(
    lambda x, w, to: (_conv(x, w, to), (x, w)),
    lambda to, saved, g: (_conv_transpose(g, saved[1], to), _kernel(saved[0], g, to)),
)


_conv_transpose.defvjp(
    lambda g, w, to: (_conv_transpose(g, w, to), (g, w)),
    lambda to, saved, x: (_conv(x, saved[1], to), _kernel(x, saved[0], to)),
)


_kernel.defvjp(
    lambda x, g, to: (_kernel(x, g, to), (x, g)),
    lambda to, saved, w: (_conv_transpose(saved[1], w, to), _conv(saved[0], w, to)),
)
