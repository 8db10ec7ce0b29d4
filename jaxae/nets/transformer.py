"""Vision transformers (Dosovitskiy et al. 2021): the patches of an image are the tokens of a transformer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxae.nets.attention import GatedMLP, SelfAttention
from jaxae.nets.layers import Keys, dot_general
from jaxae.nets.mlp import MLP


def patches(x: Float[Array, "B H W C"], patch: int) -> Float[Array, "B R S D"]:
    """The patches of `patch` x `patch` pixels, flattened; zero padding at the right and bottom edges."""
    x = jnp.pad(x, [(0, 0), *((0, -size % patch) for size in x.shape[1:3]), (0, 0)])
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).swapaxes(2, 3)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def image(p: Float[Array, "B R S D"], patch: int, shape: tuple[int, ...]) -> Float[Array, "B H W C"]:
    """The images of this shape with these patches: the inverse of `patches`."""
    b, rows, columns, _ = p.shape
    x = p.reshape(b, rows, columns, patch, patch, shape[2]).swapaxes(2, 3)
    return x.reshape(b, rows * patch, columns * patch, shape[2])[:, : shape[0], : shape[1]]


def positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "T W"]:
    """Fixed embeddings of the positions in a grid: sines and cosines of the row, then of the column.

    Vaswani et al. 2017, section 3.5, along each axis (He et al. 2022, appendix A.1). ValueError unless 4 divides width.
    """
    if width % 4:
        raise ValueError(f"width={width} must be a multiple of 4, for sines and cosines of rows and columns")
    rates = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
    of_axes = np.indices((rows, columns)).reshape(2, -1, 1) * rates
    return np.concatenate([f(angles) for angles in of_axes for f in (np.sin, np.cos)], axis=1).astype(np.float32)


class Layer(nn.Module):
    """Self-attention and a dense net, each applied to the normalized x and added to x: [B, T, W] -> [B, T, W].

    gated: a gated dense net with as many parameters (Shazeer 2020), in place of one of width 4 W with GELU.
    """

    heads: int
    gated: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T W"], mask: Bool[Array, "B T"] | None) -> tuple[Float[Array, "B T W"], None]:
        width = x.shape[-1]
        x = x + SelfAttention(self.heads, precision=self.precision, name="attention")(_norm(x, "first_norm"), mask)
        net = (
            GatedMLP(8 * width // 3, precision=self.precision, name="dense")
            if self.gated
            else MLP((4 * width,), (width,), activation=nn.gelu, precision=self.precision, name="dense")
        )
        return x + net(_norm(x, "last_norm")), None


class Transformer(nn.Module):
    """A scan over `depth` layers, and a norm: [B, T, W] -> [B, T, W]. Its parameters have an axis of layers.

    mask: positions to attend to (default: all). remat: recompute activations in the backward pass, see
    `residual.Level`.
    """

    depth: int
    heads: int
    gated: bool = False
    remat: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T W"], mask: Bool[Array, "B T"] | None = None) -> Float[Array, "B T W"]:
        scanned = nn.scan(
            nn.remat(Layer, prevent_cse=False) if self.remat else Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        return _norm(scanned(self.heads, self.gated, self.precision, name="layers")(x, mask)[0], "norm")


class PatchEncoder(nn.Module):
    """A vision transformer without class token: [B, H, W, C] -> [B, R, S, width], a token per patch.

    visible: the patches that the tokens of all patches depend on (default: all); tokens of other patches are arbitrary.
    count: number of visible patches, if it is the same in all images; then only their tokens are computed, and those of
    other patches are 0.
    """

    patch: int
    width: int
    depth: int
    heads: int
    gated: bool = False
    remat: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], visible: Bool[Array, "B R S"] | None = None, count: int | None = None
    ) -> Float[Array, "B R S width"]:
        grid = patches(x, self.patch)
        rows, columns = grid.shape[1:3]
        tokens, net = _tokens(grid, self.width, self.precision, "embedding"), _transformer(self)
        mask = None if visible is None else visible.reshape(len(x), -1)
        if mask is None or count is None:
            return net(tokens, mask).reshape(-1, rows, columns, self.width)
        order = jnp.argsort(~mask, axis=1, stable=True)[..., None]  # visible patches first
        shown = net(jnp.take_along_axis(tokens, order[:, :count], axis=1))
        padded = jnp.pad(shown, ((0, 0), (0, tokens.shape[1] - count), (0, 0)))
        found = jnp.take_along_axis(padded, jnp.argsort(order, axis=1), axis=1)
        return found.reshape(-1, rows, columns, self.width)


class PatchDecoder(nn.Module):
    """A vision transformer from tokens to pixels: [*lead, R, S, Z] -> [*lead, *shape]."""

    shape: tuple[int, ...]  # of an image
    patch: int
    width: int
    depth: int
    heads: int
    gated: bool = False
    remat: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "*lead R S Z"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
    ) -> Float[Array, "*lead_and_shape"]:
        grid = z.reshape(-1, *z.shape[-3:])
        tokens = _transformer(self)(_tokens(grid, self.width, self.precision, "input"))
        found = _dense(self.patch**2 * self.shape[2], self.precision, "output")(tokens)
        pixels = image(found.reshape(*grid.shape[:3], -1), self.patch, self.shape)
        return pixels.reshape(*z.shape[:-3], *self.shape)


def _tokens(grid: Float[Array, "B R S D"], width: int, precision: str, name: str) -> Float[Array, "B T W"]:
    """A linear map of each vector of the grid, plus the embedding of its position."""
    _, rows, columns, size = grid.shape
    tokens = _dense(width, precision, name)(grid.reshape(len(grid), -1, size))
    return tokens + jnp.asarray(positions(rows, columns, width))[None]


def _transformer(net: PatchEncoder | PatchDecoder) -> Transformer:
    return Transformer(net.depth, net.heads, net.gated, net.remat, net.precision, name="transformer")


def _norm(x: jax.Array, name: str) -> jax.Array:
    return nn.LayerNorm(1e-6, use_fast_variance=False, name=name)(x)


def _dense(width: int, precision: str, name: str) -> nn.Dense:
    return nn.Dense(width, kernel_init=nn.initializers.glorot_uniform(), dot_general=dot_general(precision), name=name)
