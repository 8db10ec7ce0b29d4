"""The vector-quantized variational autoencoder (van den Oord, Vinyals & Kavukcuoglu 2017)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.experiment import MeasuredData, TrainedModel
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods import Bernoulli, log_likelihood

# Update of the codebook without gradients: (variables, z, rows, batch, key) -> (terms, updates)
Update: TypeAlias = Callable[
    [Variables, Float[Array, "B *P Z"], Int[Array, "B *P"], Batch, Key[Array, ""]], tuple[Terms, Extra]
]

COPY = 1e-6  # squared distance, in squared lengths, of vectors that are the same but for rounding


class Quantized(NamedTuple):
    """Vectors at the places P of a code, usually h w, and what stands for them."""

    before: Float[Array, "B *P Z"]  # from the encoder
    after: Float[Array, "B *P Z"]  # the nearest codes
    rows: Int[Array, "B *P"]  # where these stand in the codebook


class VQVAE(nn.Module):
    """Each vector that the encoder gives is replaced by the nearest of K codes; the decoder sees nothing else.

    The codebook is state, the collection `codebook`; where `learned`, it is the group of parameters `codebook`, and
    where that is also `tracked`, the sum of both.
    """

    encoder: nn.Module  # [B, *D] -> [B, *P, Z]
    decoder: nn.Module  # [B, *P, Z] -> [B, *D]: logits
    codes: int  # K
    latent: int  # Z
    learned: bool = False  # by the gradient, not by averages
    tracked: bool = True  # whether its use is known, for codes that are learned: what revival needs

    def setup(self) -> None:
        shape = (self.codes, self.latent)
        init = nn.initializers.normal(0.1)
        if self.learned:
            self.book = self.param("codebook", init, shape)
        if self.tracked or not self.learned:
            zero = jnp.zeros(shape)
            start = self.variable("codebook", "codes", lambda: zero if self.learned else init(self.make_rng(), shape))
            self.book = self.book + start.value if self.learned else start.value
            self.variable("codebook", "use", jnp.zeros, self.codes)

    def __call__(self, x: Float[Array, "B *D"]) -> tuple[Quantized, Float[Array, "B *D"]]:
        """The vectors and their codes, and the logits."""
        vectors = self.quantize(x)
        return vectors, self.decoder(straight_through(vectors.before, vectors.after))

    def quantize(self, x: Float[Array, "B *D"]) -> Quantized:
        """The encoder's vectors and their codes."""
        z = self.encoder(x)
        rows = nearest(z, self.book)
        return Quantized(z, self.book[rows], rows)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B *P Z"]:
        """The codes, as vectors."""
        return self.quantize(x).after

    def index(self, z: Float[Array, "B *P Z"]) -> Int[Array, "B *P"]:
        """Where in the codebook these codes stand."""
        return nearest(z, self.book)

    def decode(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *D"]:
        """Pixels in [0, 1], of the codes that are nearest to these vectors."""
        return nn.sigmoid(self.decoder(self.book[nearest(z, self.book)]))


def nearest(z: Float[Array, "*P Z"], codes: Float[Array, "K Z"]) -> Int[Array, "*P"]:
    """argmin_k |z - e_k| (equation 1 of the paper); of several that are as near, the first.

    |z - e|^2 without |z|^2, which is the same for all codes: a matrix product.
    """
    squares = 0.5 * per_example(codes**2)
    products = jnp.matmul(z, codes.T, precision="highest")
    return jnp.argmin(squares.reshape(*[1] * (z.ndim - 1), -1) - products, axis=-1)


def straight_through(z: Float[Array, "*D"], q: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """q, to the bit, with the gradient of z: what follows is differentiated at q, and z moves as q should.

    Bengio, Leonard & Courville 2013; section 3.2 of the paper.
    """
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))


def loss(model: VQVAE, commitment: float = 0.25, update: Update | None = None) -> Loss:
    """-log p(x|z) + |sg(z) - e|^2 + commitment |z - sg(e)|^2 (equation 3 of the paper), in nats per example.

    Every term is a sum: over the pixels of an image, and over the places and dimensions of a code (the paper takes
    the mean over places). Only learned codes have the second term. The KL term, KL(q(z|x) || p(z)) = h w log K, is
    omitted: it is constant for a uniform prior.
    update: updates the state of the codebook in training (see `track`).

    Terms: `loss`; `reconstruction`, -log p(x|z) of a Bernoulli; `quantization`, |z - e|^2; `bce` (nats per pixel)
    and `mse` (pixels in [0, 1]), means over pixels; those of the update.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        found: Any = model.apply(variables, batch.x)
        (z, e, rows), logits = found
        fixed, likelihood = jax.lax.stop_gradient, Bernoulli()
        terms = {
            "reconstruction": -log_likelihood(likelihood, logits, batch.x),
            "quantization": per_example((fixed(z) - e) ** 2),
            **likelihood.errors(logits, batch.x),
        }
        terms["loss"] = terms["reconstruction"] + commitment * per_example((z - fixed(e)) ** 2)
        if model.learned:
            terms["loss"] = terms["loss"] + terms["quantization"]
        if update is None or not batch.training:
            return terms, {}
        more, updates = update(variables, fixed(z), rows, batch, key)
        return {**terms, **more}, updates

    return objective


def track(decay: float = 0.99, revival: float = 0.0) -> Update:
    """Exponential moving averages over global batches: of code usage, and of codes not learned (appendix A.1).

    With n_k vectors z of the batch that are nearest to code k (equations 6 to 8 of the paper):

        N_k <- decay N_k + (1 - decay) n_k,  m_k <- decay m_k + (1 - decay) sum z,  e_k = m_k / N_k,

    computed as increments of e_k, so that a code without vectors does not move, however small its N_k. N is relative
    to uniform usage: a code with 1 / K of all vectors has N_k = 1. It starts from 0, so that the first vectors move a
    code to their mean.
    revival: codes with N_k below this are re-initialised from vectors of the batch, with N_k = 1, unless another code
    equals that vector (0: never).

    Terms, of the whole batch: `perplexity`, exp of the entropy of code usage, from 1 to K; `usage`, the fraction of
    codes in use. ValueError for a decay that is not below 1.
    """
    if decay >= 1:
        raise ValueError(f"decay={decay} must be below 1")

    def update(
        variables: Variables,
        z: Float[Array, "B *P Z"],
        rows: Int[Array, "B *P"],
        batch: Batch,
        key: Key[Array, ""],
    ) -> tuple[Terms, Extra]:
        codes, use = variables["codebook"]["codes"], variables["codebook"]["use"]
        learned = variables["params"].get("codebook")
        vectors = z.reshape(len(z), -1, z.shape[-1])
        chosen = jax.nn.one_hot(rows.reshape(vectors.shape[:2]), len(codes))
        shares = batch.mean(chosen.mean(1))
        terms = {
            "perplexity": batch.repeat(jnp.exp(jax.scipy.special.entr(shares).sum())),
            "usage": batch.repeat(jnp.mean(shares > 0)),
        }
        n = len(codes) * shares
        use = decay * use + (1 - decay) * n
        if learned is None:
            sums = jnp.einsum("bpk,bpz->bkz", chosen, vectors, precision="highest") / vectors.shape[1]
            off = len(codes) * batch.mean(sums) - n[:, None] * codes
            codes = codes + (1 - decay) * off / jnp.maximum(use, jnp.finfo(use.dtype).tiny)[:, None]
        if revival:
            base = 0.0 if learned is None else learned
            fresh = resampled(vectors, len(codes), batch, key)
            revived = (use < revival) & unlike(fresh, codes + base)
            codes, use = jnp.where(revived[:, None], fresh - base, codes), jnp.where(revived, 1.0, use)
        return terms, {"codebook": {"codes": codes, "use": use}}

    return update


def resampled(vectors: Float[Array, "B P Z"], k: int, batch: Batch, key: Key[Array, ""]) -> Float[Array, "{k} Z"]:
    """Sample k vectors of the global batch with replacement, the same on every device."""
    all_vectors = batch.gather(vectors).reshape(-1, vectors.shape[2])
    return all_vectors[jax.random.randint(key, (k,), 0, len(all_vectors))]


def unlike(fresh: Float[Array, "N Z"], codes: Float[Array, "K Z"]) -> Bool[Array, " N"]:
    """Which vectors are copies of no code, and of none of the vectors before them.

    Blank places give the same vector: of codes that are alike, which one is nearest would be a matter of rounding.
    """
    n, k = len(fresh), len(codes)
    square = jnp.sum((fresh[:, None] - jnp.concatenate([codes, fresh])[None]) ** 2, axis=2)
    before = jnp.arange(k + n)[None] < k + jnp.arange(n)[:, None]
    return jnp.min(jnp.where(before, square, jnp.inf), axis=1) > COPY * jnp.mean(jnp.sum(fresh**2, axis=1))


def usage(trained: TrainedModel, data: MeasuredData) -> dict[str, float]:
    """How the test split uses the codebook: `perplexity`, from 1 to K, and `usage`, the share of codes it contains.

    trained: of a `VQVAE`, or of another model with as many `codes` and their `index`.
    """
    from scipy import stats

    model: Any = trained.experiment.model
    index = jax.jit(partial(model.apply, method="index"))
    starts = range(0, len(data.test.x), 1000)
    rows = [np.ravel(index(trained.variables, trained.encode(data.test.x[i : i + 1000]))) for i in starts]
    counts = np.unique(np.concatenate(rows), return_counts=True)[1]
    return {"perplexity": float(np.exp(stats.entropy(counts))), "usage": len(counts) / model.codes}
