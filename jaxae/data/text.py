"""Lines of a text as sequences of token ids, from the tokenizer in the folder of a language model."""

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxae.errors import BROKEN_FILE, DAMAGED, InputError, first_line

BLOCK = 1000  # lines tokenized at once


class Sequences(NamedTuple):
    """Sequences of tokens, one after the other: those of sequence s are at `starts[s]` to `starts[s + 1]`."""

    ids: Int[np.ndarray, " N"]
    special: Bool[np.ndarray, " N"]  # whether the tokenizer added the token ([CLS], [SEP])
    starts: Int[np.ndarray, " S1"]
    lines: Int[np.ndarray, " S"]  # index of the line in the file, from 0
    read: int  # lines of the file that were read
    blank: int  # of which were blank
    split: int  # of which became several sequences
    complete: bool  # whether all lines were read


def tokenizer(folder: Path) -> Any:
    """The tokenizer in `tokenizer.json`, or of the WordPiece `vocab.txt`, without truncation and padding.

    InputError for a folder with neither, a damaged file, and without the package `tokenizers`.
    """
    try:
        import tokenizers
    except ImportError:
        raise InputError(f"{folder}: needs the package tokenizers: pip install 'jaxae[lm]'") from None
    file, vocabulary, settings = (folder / f for f in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"))
    if not (file.exists() or vocabulary.exists()):
        raise InputError(f"{folder} has neither tokenizer.json nor vocab.txt; copy one of them from the model")
    try:
        if file.exists():
            found = tokenizers.Tokenizer.from_file(str(file))
        else:
            lower = json.loads(settings.read_text()).get("do_lower_case", True) if settings.exists() else True
            found = tokenizers.BertWordPieceTokenizer(str(vocabulary), lowercase=lower)._tokenizer
    except Exception as error:  # the package raises Exception itself
        raise InputError(f"{folder}: its tokenizer cannot be read ({first_line(error)}); {BROKEN_FILE}") from None
    found.no_truncation()
    found.no_padding()
    return found


def vocabulary(tokenizer: Any) -> list[str]:
    """The piece of text of every token id; "" for an id without one."""
    known = tokenizer.get_vocab()
    found = [""] * (max(known.values()) + 1)
    for piece, place in known.items():
        found[place] = piece
    return found


def sequences(path: Path, tokenizer: Any, longest: int, limit: int = 0, special: bool = True) -> Sequences:
    """Tokenize the lines of a text file, which may be compressed (`.gz`); blank lines are left out.

    A line of more than `longest` tokens becomes several sequences. limit: number of tokens at which reading stops,
    before the line that exceeds it (0: none). special: whether special tokens count towards it.
    InputError for a file that is not UTF-8 text, for one without a token, and for a limit below the first line.
    """
    tokenizer.enable_truncation(longest)
    ids: list[np.ndarray] = []
    added: list[np.ndarray] = []
    lines: list[int] = []
    read = blank = split = total = 0
    complete = True
    for line, encoding in _encoded(path, tokenizer):
        pieces = [] if encoding is None else [encoding, *encoding.overflowing]
        masks = [np.array(piece.special_tokens_mask, bool) for piece in pieces]
        total += sum(len(mask) if special else int((~mask).sum()) for mask in masks)
        if limit and total > limit:
            complete = False
            break
        read, blank, split = line + 1, blank + (not pieces), split + (len(pieces) > 1)
        ids += [np.array(piece.ids, np.int32) for piece in pieces]
        added += masks
        lines += [line] * len(pieces)
    if not ids:
        if limit and total:
            raise InputError(f"max_tokens={limit} is below the {total:,} tokens of the first line of {path}; use more")
        raise InputError(f"{path} has no text; use another file")
    starts = np.cumsum([0, *map(len, ids)])
    return Sequences(
        np.concatenate(ids), np.concatenate(added), starts, np.array(lines, np.int32), read, blank, split, complete
    )


def _encoded(path: Path, tokenizer: Any) -> Iterator[tuple[int, Any]]:
    """The index and the encoding of every line; None for a blank one."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            numbered = enumerate(file)
            while block := [(number, line.strip()) for number, line in islice(numbered, BLOCK)]:
                encodings = iter(tokenizer.encode_batch([line for _, line in block if line]))
                yield from ((number, next(encodings) if line else None) for number, line in block)
    except (*DAMAGED, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text ({first_line(error)}); convert it to UTF-8") from None
