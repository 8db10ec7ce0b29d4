"""The latents of a sparse autoencoder in the HTML report: the examples or texts in which each is largest.

On a folder of activations of a language model an example is a token, shown in its context; on other data it is an
image or the number of a row. With a known dictionary, each latent is shown with its true feature.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxae.core.experiment import SparseData
from jaxae.data import Dataset, slices, spread, words
from jaxae.data.activations import Activations
from jaxae.measure import dictionary, latents
from jaxae.measure.latents import Survey
from jaxae.report.figures.base import bitmap, data_url, displayed, in_units, originals, tile
from jaxae.training.trained import Trained
from jaxae.variants.dictionary import SparseAutoencoder

MOST_ACTIVE = 16  # latents shown
OTHERS = 16  # further latents shown, of all frequencies
TOP = 8  # examples of each latent, from different sequences
NEIGHBOURS = 4
WINDOW = 16  # tokens shown before and after the one with the largest activation
SHADES = 9  # above 0: classes of `style.css`
CAUSES = 4  # columns shown of a row


def features(model: Trained, data: Dataset, text: Activations | None = None) -> dict[str, Any] | None:
    """The latents as values for the template; None for a model that is not a sparse autoencoder.

    model, data: in model units. text: the activations from which the data were read.
    """
    if not isinstance(model.experiment.model, SparseAutoencoder):
        return None
    found = latents.of_text(model, data, text, top=TOP) if text else latents.of_test(model, data, top=TOP)
    chosen = selected(found)
    decoder = np.asarray(model.params["decoder"])
    examples = _contexts(model, data, text, found, chosen) if text else _examples(model, data, found, chosen)
    truth = _truth(model, data)
    return {
        "about": _about(found, data, text),
        "text": text is not None,
        "latents": [
            {
                "number": int(latent),
                "frequency": f"{found.frequency[latent]:.3%}",
                "mean": f"{found.mean[latent]:.4g}",
                "neighbours": _neighbours(decoder, latent, chosen),
                "truth": truth[latent] if truth else "",
                **shown,
            }
            for latent, shown in zip(chosen.tolist(), examples, strict=True)
        ],
    }


def selected(found: Survey) -> Int[np.ndarray, " k"]:
    """The latents with the largest sums of values, and others evenly spaced in the order of these sums."""
    order = np.argsort(-found.total, kind="stable")
    order = order[found.fired[order] > 0]
    rest = order[MOST_ACTIVE:]
    return np.concatenate([order[:MOST_ACTIVE], rest[spread(len(rest), OTHERS)] if len(rest) else rest])


def _about(found: Survey, data: Dataset, text: Activations | None) -> str:
    """Text on the examples surveyed, and how many latents never fire, or fire in more than a tenth of them."""
    count = f"{len(found.active):,}"
    if text is None:
        over = f"{count} test {words(data.kind).examples}"
    else:
        over = f"{count} of {len(text.tokens):,} tokens, of complete sequences evenly spaced over the text"
    dead, dense = int((found.fired == 0).sum()), int((found.frequency > dictionary.DENSE).sum())
    return (
        f"Over {over}, {found.active.mean():.4g} of {len(found.fired):,} latents fire on average; {dead:,} never fire, "
        f"{dense:,} in more than {dictionary.DENSE:.0%}."
    )


def _neighbours(rows: Float[np.ndarray, "n d"], latent: int, chosen: Int[np.ndarray, " k"]) -> list[dict[str, Any]]:
    """The latents whose decoder rows have the largest cosines, and whether the report shows them."""
    norms = np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    cosines = rows @ rows[latent] / (norms * norms[latent])
    cosines[latent] = -np.inf
    nearest = np.argsort(-cosines, kind="stable")[: min(NEIGHBOURS, len(rows) - 1)]
    return [{"number": int(k), "cosine": f"{cosines[k]:.2f}", "shown": bool((chosen == k).any())} for k in nearest]


def _truth(model: Trained, data: Dataset) -> list[str]:
    """The true feature of each latent as text; empty if the dictionary of the data is unknown."""
    if not (isinstance(data, SparseData) and data.dictionary is not None and data.test.firing is not None):
        return []
    decoder = np.asarray(model.params["decoder"], np.float64)
    of = dictionary.best(decoder, data.dictionary)
    sums = dictionary.totals(model.experiment.model, model.variables, data.test, of)
    cosines = dictionary.cosines(decoder, data.dictionary)[np.arange(len(of)), of]
    if sums.matched is None or sums.hits is None:
        return []
    precision, recall = sums.hits / np.maximum(sums.fired, 1), sums.hits / np.maximum(sums.matched, 1)
    return [
        f"true feature {of[k]}: |cosine| {cosines[k]:.3f}, precision {precision[k]:.2f}, recall {recall[k]:.2f}, "
        f"active in {sums.matched[k] / sums.examples:.3%}"
        for k in range(len(of))
    ]


def _contexts(
    model: Trained, data: Dataset, text: Activations, found: Survey, chosen: Int[np.ndarray, " k"]
) -> list[dict[str, Any]]:
    """For each latent the texts around its largest values in different sequences, with the shade of every token."""
    if not len(chosen):
        return []
    starts, own = latents.sequences(text), replace(model, scale=data.scale)
    needed = np.unique(found.groups[:, chosen][found.largest[:, chosen] > 0])
    tokens = [np.arange(starts[s], starts[s + 1]) for s in needed]
    rows, codes = np.concatenate(tokens), []
    for part in slices(len(rows), len(found.fired)):
        codes.append(np.asarray(own.encode(latents.rows(text, rows[part])))[:, chosen])
    of = dict(
        zip(needed.tolist(), np.split(np.concatenate(codes), np.cumsum([len(t) for t in tokens])[:-1]), strict=True)
    )
    shown = []
    for column, latent in enumerate(chosen.tolist()):
        highest, contexts = float(found.largest[0, latent]), []
        for value, sequence in zip(found.largest[:, latent], found.groups[:, latent].tolist(), strict=True):
            if value > 0:
                values, start = of[sequence][:, column], int(starts[sequence])
                pieces = [text.vocabulary[i] for i in text.tokens[start : start + len(values)].tolist()]
                first, last = window(pieces, int(values.argmax()))
                contexts.append(
                    {
                        "value": f"{value:.3g}",
                        "line": f"{text.lines[start] + 1:,}",
                        "tokens": [
                            {
                                "blank": blank,
                                "text": t,
                                "shade": int(np.ceil(SHADES * v / highest)),
                                "value": f"{v:.3g}",
                            }
                            for (blank, t), v in zip(
                                spaced(pieces)[first:last], values[first:last].tolist(), strict=True
                            )
                        ],
                        "cut": (first > 0, last < len(values)),
                    }
                )
        shown.append({"contexts": contexts})
    return shown


def window(pieces: list[str], middle: int) -> tuple[int, int]:
    """Start and end of the tokens within `WINDOW` of the middle, extended to complete words at both ends."""
    first, last = max(0, middle - WINDOW), min(len(pieces), middle + WINDOW + 1)
    while first > 0 and pieces[first].startswith("##"):
        first -= 1
    while last < len(pieces) and pieces[last].startswith("##"):
        last += 1
    return first, last


def spaced(pieces: list[str]) -> list[tuple[str, str]]:
    """WordPiece tokens, each with the preceding space, which is empty within words and before punctuation."""
    found: list[tuple[str, str]] = []
    after = ""
    for piece in pieces:
        inside, mark = piece.startswith("##"), len(piece) == 1 and not piece.isalnum()
        blank = bool(found) and not (inside or (mark and piece != "(") or after in ("'", "("))
        found.append((" " * blank, piece.removeprefix("##")))
        after = piece
    return found


def _examples(model: Trained, data: Dataset, found: Survey, chosen: Int[np.ndarray, " k"]) -> list[dict[str, Any]]:
    """For each latent the test examples in which it is largest: images, or rows described by `_described`."""
    pictured = displayed(model, data)[1]
    shown: list[dict[str, Any]] = []
    for latent in chosen.tolist():
        fires = found.largest[:, latent] > 0
        values, places = found.largest[fires, latent].tolist(), found.groups[fires, latent]
        if len(data.shape) == 3:
            images = originals(pictured, places)
            picture = data_url(bitmap(tile(images, len(images))))
            shown.append({"picture": picture, "values": ", ".join(f"{value:.3g}" for value in values)})
        else:
            rows = zip(values, places.tolist(), strict=True)
            shown.append({"rows": [(f"{value:.3g}", f"{place:,}", _described(data, place)) for value, place in rows]})
    return shown


def _described(data: Dataset, place: int) -> str:
    """The true features of a test example, or else the columns of a table that differ most from their means."""
    if isinstance(data, SparseData) and data.test.firing is not None:
        fires = np.flatnonzero(data.test.firing[place : place + 1])
        return f"true features {', '.join(map(str, fires.tolist()))}"
    if len(data.shape) > 1:
        return ""
    x = np.asarray(data.test.x[place : place + 1])[0]
    most = np.argsort(-np.abs(x), kind="stable")[:CAUSES]
    values = in_units(data, x)
    return ", ".join(f"{data.features[k] if data.features else k} = {values[k]:.4g}" for k in most.tolist())
