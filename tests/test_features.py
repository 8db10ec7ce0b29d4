"""Latents of a sparse autoencoder in the report: statistics against loops over examples, contexts, escaping."""

import io
from base64 import b64decode
from dataclasses import replace
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from conftest import HOSTILE, call, trained
from jaxae import data
from jaxae.core.experiment import Experiment
from jaxae.core.step import Transition
from jaxae.core.types import Scale
from jaxae.data.activations import Activations
from jaxae.data.dataset import Dataset, Split
from jaxae.measure import latents
from jaxae.report import figures, html
from jaxae.report.features import features, spaced, window
from jaxae.variants.dictionary import Rule, SparseAutoencoder

D, N = 4, 6
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, D)).astype(np.float32)


def model(decoder, bias=0.0, shape=(D,)):
    """Codes are relu(x V^T + bias) for a decoder V."""
    n = len(decoder)
    experiment = Experiment(SparseAutoencoder(shape, n, Rule()), Transition(dict, dict), dict)
    params = {
        "encoder": jnp.asarray(decoder.T, jnp.float32),
        "encoder_bias": jnp.full(n, bias, jnp.float32),
        "decoder": jnp.asarray(decoder, jnp.float32),
        "decoder_bias": jnp.zeros(decoder.shape[1]),
    }
    extra = {"statistics": experiment.model.init(jax.random.key(0), jnp.zeros((1, *shape)))["statistics"]}
    return replace(trained(experiment, params, extra, shape), real=len(shape) == 1)


DECODER = RNG.normal(size=(N, D))
MODEL = model(DECODER, -0.7)
CODES = np.maximum(X.astype(np.float64) @ DECODER.T - 0.7, 0)
LENGTHS = [9, 1, 20, 5, 14, 11]  # of the sequences of a text
POSITIONS = np.concatenate([np.arange(length, dtype=np.int32) for length in LENGTHS])
VOCABULARY = ("[CLS]", "the", "cat", "##s", ",", "'", "(", HOSTILE)
TEXT = Activations(
    X * 2 + 5,
    RNG.integers(0, len(VOCABULARY), 60).astype(np.int32),
    POSITIONS,
    np.repeat(np.array([0, 1, 2, 2, 5, 7], np.int32), LENGTHS),
    VOCABULARY,
)
DATA = data.from_arrays(X, test=X, scale="none")._replace(scale=Scale(np.full(D, 5.0), np.full(D, 2.0)))


def by_loops(codes, groups, top):
    """Statistics of `survey` by loops over latents and groups."""
    largest = [
        sorted(((codes[groups == g, k].max(), g) for g in np.unique(groups)), key=lambda pair: -pair[0])[:top]
        for k in range(codes.shape[1])
    ]
    return (codes > 0).sum(0), codes.sum(0), (codes > 0).sum(1), largest


def compared(found, codes, groups, top):
    fired, total, active, largest = by_loops(codes, groups, top)
    np.testing.assert_array_equal(found.fired, fired)
    np.testing.assert_allclose(found.total, total, rtol=1e-5)
    np.testing.assert_array_equal(found.active, active)
    np.testing.assert_allclose(found.frequency, (codes > 0).mean(0))
    np.testing.assert_allclose(found.mean, [c[c > 0].mean() if (c > 0).any() else 0 for c in codes.T], rtol=1e-5)
    for k, pairs in enumerate(largest):
        np.testing.assert_allclose(found.largest[:, k], [value for value, _ in pairs], rtol=1e-5)
        fires = found.largest[:, k] > 0
        np.testing.assert_array_equal(found.groups[fires, k], [g for value, g in pairs if value > 0])


@pytest.mark.parametrize("size", [7, 13, 60])
def test_statistics_of_test_examples_do_not_depend_on_the_parts(size):
    compared(latents.of_test(MODEL, DATA, top=3, values=size * N), CODES, np.arange(60), 3)


@pytest.mark.parametrize("values", [10 * N, 25 * N, 2**24])
def test_statistics_of_a_text_are_of_complete_sequences_in_the_units_of_the_data(values):
    found = latents.of_text(MODEL, DATA, TEXT, top=3, values=values)
    compared(found, CODES, np.repeat(np.arange(6), LENGTHS), 3)


def test_part_of_a_text_is_evenly_spaced_sequences():
    found = latents.of_text(MODEL, DATA, TEXT, limit=30)
    rows = np.concatenate([np.flatnonzero(np.repeat(np.arange(6), LENGTHS) == s) for s in (0, 2, 5)])
    np.testing.assert_array_equal(found.active, (CODES[rows] > 0).sum(1))


def test_sequences_start_where_positions_do_not_rise():
    """Also without [CLS], whose position is 0."""
    text = TEXT._replace(positions=np.array([1, 2, 3, 1, 1, 2], np.int32))
    np.testing.assert_array_equal(latents.sequences(text), [0, 3, 4, 6])


def test_contexts_show_the_largest_values_in_their_text():
    found = features(MODEL, DATA, TEXT)
    assert "Over 60 of 60 tokens" in found["about"]
    assert f"{(CODES > 0).sum(1).mean():.4g} of {N} latents fire on average" in found["about"]
    order = [latent["number"] for latent in found["latents"]]
    assert order == np.argsort(-CODES.sum(0), kind="stable").tolist()
    starts = np.cumsum([0, *LENGTHS])
    for latent in found["latents"]:
        values = CODES[:, latent["number"]]
        assert latent["frequency"] == f"{(values > 0).mean():.3%}"
        best = sorted(((values[a:b].max(), a, b) for a, b in pairwise(starts)), reverse=True)
        best = [part for part in best if part[0] > 0]
        assert [float(context["value"]) for context in latent["contexts"]] == pytest.approx(
            [part[0] for part in best], rel=6e-3
        )
        for context, (_, a, b) in zip(latent["contexts"], best, strict=True):
            assert context["line"] == f"{TEXT.lines[a] + 1}"
            first, last = window([VOCABULARY[i] for i in TEXT.tokens[a:b]], int(values[a:b].argmax()))
            assert context["cut"] == (first > 0, last < b - a)
            part = values[a + first : a + last]
            assert [token["shade"] for token in context["tokens"]] == np.ceil(9 * part / values.max()).tolist()
            expected = [VOCABULARY[i].removeprefix("##") for i in TEXT.tokens[a + first : a + last]]
            assert [token["text"] for token in context["tokens"]] == expected


def test_window_has_complete_words():
    pieces = ["a", "##b", *"cdefghijklmnop", "x", *"qrstuvwxyzabcdef", "g", "##h", "##i", "j"]
    assert pieces[16] == "x"
    assert window(pieces, 16) == (0, 33)
    assert window(pieces, 17) == (0, 36)
    assert window(pieces, 18) == (2, 36)
    assert window(["a"], 0) == (0, 1)


def test_pieces_are_joined_to_text():
    pieces = "[CLS] the cat ##s , ' said ( he ) : don ' t [SEP]".split()
    text = "".join(blank + piece for blank, piece in spaced(pieces))
    assert text == "[CLS] the cats,'said (he): don't [SEP]"


def test_neighbours_are_the_largest_cosines_of_decoder_rows():
    rows = DECODER / np.linalg.norm(DECODER, axis=1, keepdims=True)
    cosines = rows @ rows.T - 2 * np.eye(N)
    for latent in features(MODEL, DATA)["latents"]:
        own = cosines[latent["number"]]
        assert [other["number"] for other in latent["neighbours"]] == np.argsort(-own)[:4].tolist()
        assert [float(other["cosine"]) for other in latent["neighbours"]] == pytest.approx(
            np.sort(own)[::-1][:4], abs=6e-3
        )
        assert all(other["shown"] for other in latent["neighbours"])


def test_rows_are_shown_in_the_units_of_the_data():
    """The columns farthest from their means, in the test rows with the largest values."""
    named = DATA._replace(features=("a", "b", "<c>", "d"))
    for latent in features(MODEL, named)["latents"]:
        order = np.argsort(-CODES[:, latent["number"]], kind="stable")[:8]
        assert [row for _, row, _ in latent["rows"]] == [f"{place}" for place in order]
        for (value, _, about), place in zip(latent["rows"], order, strict=True):
            assert float(value) == pytest.approx(CODES[place, latent["number"]], rel=6e-3)
            first = int(np.abs(X[place]).argmax())
            assert about.startswith(f"{named.features[first]} = {X[place, first] * 2 + 5:.4g}, ")


def test_images_are_shown_as_pictures():
    images = RNG.integers(0, 256, (30, 2, 2, 1), dtype=np.uint8)
    digits = data.from_arrays(images, test=images)
    decoder = np.eye(4)[:3]
    for latent in features(model(decoder, shape=(2, 2, 1)), digits)["latents"]:
        order = np.argsort(-images.reshape(30, 4)[:, latent["number"]].astype(int), kind="stable")[:8]
        with Image.open(io.BytesIO(b64decode(latent["picture"].split(",")[1]))) as picture:
            pixels = np.asarray(picture)
        np.testing.assert_array_equal(pixels.reshape(4, 8, 4)[1:3, :, 1:3].swapaxes(0, 1), images[order, :, :, 0])


def test_latents_are_shown_beside_their_true_features():
    """A latent that is its feature has precision and recall 1; one that fires half as often has recall 1/2."""
    firing = RNG.random((40, D)) < 0.4
    firing[0] = True
    x = firing * RNG.uniform(1, 2, firing.shape)
    x[np.flatnonzero(firing[:, 1])[::2], 1] = 0.01
    split = Split(x.astype(np.float32), np.full(40, -1), firing=firing)
    known = Dataset(split, split, (), "table", real=True, dictionary=np.eye(D))
    own = model(np.eye(D)[[2, 1, 0]], -0.1)
    found = {latent["number"]: latent for latent in features(own, known)["latents"]}
    share = firing.mean(0)
    assert found[0]["truth"] == (
        f"true feature 2: |cosine| 1.000, precision 1.00, recall 1.00, active in {share[2]:.3%}"
    )
    half = (x[:, 1] > 0.1).sum() / firing[:, 1].sum()
    assert found[1]["truth"].startswith(f"true feature 1: |cosine| 1.000, precision 1.00, recall {half:.2f}, active in")
    place = int(found[2]["rows"][0][1])
    assert found[2]["rows"][0][2] == f"true features {', '.join(map(str, np.flatnonzero(firing[place])))}"


class Plain(nn.Module):
    """The code is the example."""

    def __call__(self, x):
        return x


def test_other_models_have_no_latents():
    plain = Experiment(Plain(), Transition(dict, dict), dict)
    assert features(trained(plain, {}, {}, (D,)), DATA) is None


def test_page_escapes_tokens_and_names():
    page = html.render("features.html", features=features(MODEL, DATA, TEXT))
    assert "&lt;/script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "&#39;taken&#39;" in page
    assert page.count("<article") == N
    assert 'class="s9"' in page
    assert "A darker token" in page
    rows = html.render("features.html", features=features(MODEL, DATA._replace(features=(HOSTILE,) * D)))
    assert "&lt;/script&gt;" in rows
    assert "<script" not in rows
    assert "A darker token" not in rows


@pytest.mark.slow
def test_report_of_a_run_finds_the_text_beside_its_data(sparse_run):
    assert call("report", sparse_run) == 0
    page = (sparse_run / "report.html").read_text()
    assert "Over 200 of 200 tokens" in page
    assert page.count(f">{escape(HOSTILE)}</span>") > 10


def test_figures_count_latents_and_examples():
    found = latents.of_test(model(np.concatenate([DECODER, np.zeros((2, D))]), -0.7), DATA)
    firing = figures.sparse.firing(found, "title").axes[0]
    assert sum(bar.get_height() for bar in firing.patches) == N
    assert "2 latents never fire" in firing.get_xlabel()
    active = figures.sparse.active(found, "title").axes[0]
    counts = np.bincount((CODES > 0).sum(1))
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in active.patches}
    assert {k: count for k, count in heights.items() if count} == {k: c for k, c in enumerate(counts) if c}
    assert f"mean {(CODES > 0).sum(1).mean():.4g}" in active.get_xlabel()
