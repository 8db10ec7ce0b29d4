"""A folder of activations of a language model: a memory map, and the token of every row."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxae.data.kinds import BFLOAT16
from jaxae.errors import BROKEN_FILE, DAMAGED, InputError, first_line

ROWS = "activations.npy"
ABOUT = "activations.json"
VOCABULARY = "vocabulary.json"


class Activations(NamedTuple):
    """Activations, in the order of the text."""

    x: Any  # [N, D], memory-mapped
    tokens: Int[np.ndarray, " N"]  # token ids
    positions: Int[np.ndarray, " N"]  # position of the token in its sequence, from 0
    lines: Int[np.ndarray, " N"]  # index of its line in the text, from 0
    vocabulary: tuple[str, ...]  # the piece of text of every token id


def folder_of(path: Path) -> Path | None:
    """The folder of activations, if the path is that of the folder or of its array; None for any other path."""
    folder = path if path.is_dir() else path.parent
    return folder if (path == folder or path.name == ROWS) and (folder / ABOUT).is_file() else None


def read(folder: Path) -> Activations:
    """The activations in a folder, memory-mapped. InputError for a folder that is incomplete or damaged."""
    try:
        x = np.load(folder / ROWS, mmap_mode="r", allow_pickle=False)
        x = x.view(BFLOAT16) if x.dtype == "V2" else x
        arrays = {
            name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in ("tokens", "positions", "lines")
        }
        vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))
        if x.ndim != 2 or any(array.shape != x.shape[:1] or array.dtype.kind != "i" for array in arrays.values()):
            raise ValueError(f"its arrays do not all have {len(x):,} tokens")
        if not (arrays["tokens"].min() >= 0 and arrays["tokens"].max() < len(vocabulary)):
            raise ValueError(f"its tokens are not those of {VOCABULARY}")
        return Activations(x, **arrays, vocabulary=tuple(map(str, vocabulary)))
    except DAMAGED as error:
        raise InputError(f"{folder} cannot be read ({first_line(error)}); {BROKEN_FILE}") from None
