"""Damaged and hostile input raises only InputError, executes nothing, and writes nothing elsewhere.

A tenth of the cases by default, 10,000 with -m slow.
"""

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import wavfile

import jaxae
from jaxae import data, run
from jaxae.errors import InputError
from jaxae.experiments import stacked, vae
from jaxae.run import command_line, config, directory
from jaxae.training import records

# Audit events that change a file, with the index of the path in their arguments; and those that start a program.
WRITES = {
    "os.remove": 0, "os.rename": 1, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1, "os.truncate": 0,
    "shutil.rmtree": 0, "os.chmod": 0,
}  # fmt: skip
RUNS = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
GIT = ["git", "rev-parse", "--show-toplevel", "HEAD"]
offences: list[str] = []
allowed: list[str] = []  # writable folders; empty: the hook is off


def look(event, args):
    if not allowed:
        return
    ours = type(threading.current_thread()).__module__.startswith("tensorboardX")  # the queue of its event files
    ours = ours or (event == "subprocess.Popen" and args[1] == GIT)  # reads the git commit
    if event in RUNS and not ours:
        offences.append(f"{event} {args[:1]}")
    path, writes = None, False
    if event == "open":
        path, mode, flags = args
        writes = any(c in (mode or "") for c in "wax+") or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    elif event in WRITES:
        path, writes = args[WRITES[event]], True
        if event in ("os.remove", "os.rmdir", "os.mkdir") and args[-1] >= 0:  # path relative to an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{args[-1]}"), os.fsdecode(path))  # noqa: PTH118, PTH115
    if writes and isinstance(path, str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(path))
        if path != "/dev/null" and not any(path.startswith(folder) for folder in allowed):
            offences.append(f"{event} {path}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The only writable folder besides the caches."""
    sys.addaudithook(look)  # audit hooks cannot be removed; this one does nothing while `allowed` is empty
    path = tmp_path_factory.mktemp("fuzz")
    (path / "cache").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXAE_CACHE", str(path / "cache"))
        patch.setattr(tempfile, "tempdir", str(path))
        yield path


@contextmanager
def watched(folder):
    """Fail if the body writes outside the folder or starts a program."""
    offences.clear()
    allowed[:] = [os.path.realpath(folder), os.path.realpath(os.environ["JAX_COMPILATION_CACHE_DIR"])]
    try:
        yield
    finally:
        allowed.clear()
    assert not offences


def only_ours(function, *args):
    """Whether the call succeeds; otherwise it must raise a one-line InputError."""
    try:
        function(*args)
    except InputError as error:
        said = str(error)
    else:
        return True
    assert "\n" not in said, said
    return False


EDIT = st.tuples(st.integers(0, 4), st.integers(0, 2**16), st.binary(min_size=1, max_size=8))


def spoil(content, edits):
    """Flip, insert, delete or repeat bytes, or truncate."""
    content = bytearray(content)
    for kind, at, chunk in edits:
        at %= len(content) + 1
        if kind == 0:
            content[at : at + len(chunk)] = chunk
        elif kind == 1:
            content[at:at] = chunk
        elif kind == 2:
            del content[at : at + len(chunk)]
        elif kind == 3:
            content[at:at] = content[at : at + 64]
        elif at % 4 == 0:  # rarely, since truncation hides other faults
            del content[at:]
    return bytes(content)


SPOILT = st.lists(EDIT, min_size=1, max_size=4)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../..", "os", "vae"]),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(max_size=4), value, max_size=3),
    max_leaves=5,
)


def cases(n):
    """Hypothesis settings for n deterministic cases, without shrinking."""
    slow, only = list(HealthCheck), [Phase.generate]
    return settings(
        max_examples=n, deadline=None, derandomize=True, database=None, suppress_health_check=slow, phases=only
    )


def npz(*arrays, **named):
    file = io.BytesIO()
    np.savez_compressed(file, *arrays, **named)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def image(kind):
    file = io.BytesIO()
    Image.fromarray(X[0]).convert("P" if kind == "gif" else "L").save(file, kind)
    return file.getvalue()


def wav(x):
    file = io.BytesIO()
    wavfile.write(file, 8000, x)
    return file.getvalue()


def parquet():
    file = io.BytesIO()
    columns = {"height": ROWS[:, 0], "count": [3, 1, 4, 1, 5, 9, 2, 6, 5], "kind": ["a", None, "b"] * 3}
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def tar(mode, **files):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("_", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


X = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
WAVE = np.random.default_rng(0).integers(-(2**15), 2**15, 60).astype(np.int16)
IDX = bytes([0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 5, 0, 0, 0, 4]) + X.tobytes()
ROWS = np.random.default_rng(0).random((9, 2), np.float32)
CSV = b"height,kind,weight\n" + b"".join(b"%d.5,%c,\n%d,%c,1e3\n" % (n, 97 + n, n, 98) for n in range(9))
FILES = {
    "images-idx3-ubyte": (IDX, 1800),
    "images-idx3-ubyte.gz": (gzip.compress(IDX, mtime=0), 1000),
    "uint8.npy": (npy(X), 1200),
    "float32.npy": (npy((X / 255).astype(np.float32)), 1000),
    "labelled.npz": (npz(x=X, y=np.arange(6)), 1500),
    "sequences.npz": (npz(ROWS[:4], ROWS), 800),
    "lengths.npz": (npz(x=ROWS, lengths=np.array([4, 3, 2])), 600),
    "splits.npz": (npz(x_train=ROWS, y_train=np.arange(9), x_val=ROWS[:3], y_val=np.arange(3)), 300),
    "table.csv": (
        b"height,kind,weight\n" + b"".join(b"%d.5,%c,\n%d,%c,1e3\n" % (n, 97 + n, n, 98) for n in range(9)),
        700,
    ),
    "table.parquet": (parquet(), 300),
    "pictures.tar": (tar("w", a_png=image("png"), b_png=image("png")), 300),
    "pictures.tar.gz": (tar("w:gz", a_png=image("png"), b_png=image("png")), 200),
}
FOLDERS = {kind: (lambda kind=kind: image(kind)) for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp")}
FOLDERS["wav"] = lambda: wav(WAVE)
COUNTS = {"png": 300, "jpeg": 200, "gif": 100, "bmp": 150, "tiff": 150, "webp": 100, "wav": 600}


SHARES = pytest.mark.parametrize("share", [10, pytest.param(1, marks=pytest.mark.slow)], ids=["tenth", "all"])


@SHARES
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_raise_only_input_errors(name, share, folder):
    content, n = FILES[name]
    path = folder / name
    worked = []

    @cases(n // share)
    @given(SPOILT)
    def fuzz(edits):
        path.write_bytes(spoil(content, edits))
        with watched(folder):
            worked.append(only_ours(data.load, str(path)))

    path.write_bytes(content)
    assert only_ours(data.load, str(path))
    fuzz()
    assert not all(worked)


@SHARES
@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.filterwarnings("ignore")  # warnings of Pillow, SciPy and NumPy about damaged files
def test_folders_with_a_damaged_file_raise_only_input_errors(kind, share, folder):
    place, whole = folder / kind, FOLDERS[kind]()
    place.mkdir(exist_ok=True)
    for i in range(3):
        (place / f"{i}.{kind}").write_bytes(whole)
    worked = []

    @cases(COUNTS[kind] // share)
    @given(SPOILT)
    def fuzz(edits):
        (place / f"1.{kind}").write_bytes(spoil(whole, edits))
        with watched(folder):
            worked.append(only_ours(data.load, str(place)))

    assert only_ours(data.load, str(place))
    fuzz()
    assert not all(worked)


ARGUMENTS = st.lists(
    st.sampled_from(
        ["--lr", "--epochs", "--hidden", "--seed", "--data", "--overwrite", "--parallel", "pmap", "1", "-1"]
    )
    | st.text(max_size=6)
    | st.floats().map(str)
    | st.integers().map(str),
    max_size=6,
)


@SHARES
def test_random_command_lines_raise_only_input_errors(folder, share):
    @cases(400 // share)
    @given(ARGUMENTS)
    def fuzz(arguments):
        with watched(folder), suppress(SystemExit):  # --help
            only_ours(command_line.parse, vae.Config, "", arguments)

    fuzz()


@pytest.fixture(scope="module")
def finished(folder):
    fields = {"epochs": 1, "batch_size": 128, "hidden": (4,), "workdir": str(folder / "run"), "figures": "none"}
    return run.train(vae.Config(**fields), vae.build, "vae")


def copied(finished, copy):
    """A fresh copy of the files of a run that are read back."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("figures", "tensorboard"))


def use(path):
    """Read all that a run has saved."""
    jaxae.load(path)
    run.load_finished(path)
    records.read(path / "metrics.jsonl")


@SHARES
def test_changed_config_json_raises_only_input_errors(finished, folder, share):
    """Any single value is replaced."""
    saved = json.loads((finished / "config.json").read_text())
    places = [(part, name) for part in ("config", "data", "versions") for name in saved[part]]
    places += [(name, None) for name in saved] + [("config", "hidden")] * 10
    copy = folder / "described"
    copy.mkdir(exist_ok=True)

    @cases(1500 // share)
    @given(st.sampled_from(places), JSON)
    def fuzz(place, value):
        part, name = place
        changed = {**saved, part: value if name is None else {**saved[part], name: value}}
        (copy / "config.json").write_text(json.dumps(changed))
        with watched(folder):
            only_ours(lambda: run.recorded_experiment(copy, directory.read(copy / "config.json")))

    fuzz()


HOSTILE = {
    "config.json": [
        "[" * 200_000,
        {"experiment": "nope.deep"},
        {"experiment": "vae.x"},
        {"experiment": "__init__"},
        {"versions": []},
        *(
            {"config": {name: value}}
            for name in ("epochs", "latent", "seeds", "lr")
            for value in (10**400, 2**63, -1, None)
        ),
        *({"data": {"shape": shape}} for shape in ([2**40, 2**40, 1], [10**30, 1, 1], [], [0], "28")),
    ],
    "metrics.jsonl": [
        "[" * 200_000,
        "{}",
        "3",
        *(
            '{"epoch": 1, "step": 12, "split": "test", "loss": ' + loss + "}"
            for loss in ("1" + "0" * 400, "[1.0]", '{"mean": 1.0, "std": 0.0}', '{"seeds": 1, "mean": 1.0, "std": 0.0}')
        ),
    ],
    "result.json": [
        "[" * 200_000,
        *({"metrics": {"loss": loss}} for loss in (10**400, [1.0], {"seeds": [1.0, 2.0], "mean": 1.5})),
        {"wall_seconds": 10**400},
        {"reached": [0]},
        [],
    ],
}


def test_hostile_json_raises(finished, folder):
    copy = folder / "hostile"
    for name, contents in HOSTILE.items():
        for number, content in enumerate(contents):
            copied(finished, copy)
            if not isinstance(content, str):
                content = _changed(json.loads((copy / name).read_text()), content)
            (copy / name).write_text(content)
            with watched(folder):
                assert not only_ours(use, copy), (name, number)


def _changed(saved, content):
    if isinstance(content, dict):
        parts = {k: {**saved[k], **v} if isinstance(v, dict) else v for k, v in content.items()}
        return json.dumps({**saved, **parts})
    return json.dumps(content)


def test_postscript_with_the_extension_of_an_image_is_not_run(folder):
    place = folder / "postscript"
    place.mkdir()
    for name in ("a.png", "b.png"):
        (place / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 5\n%%EndComments\nshowpage\n")
    with watched(folder):
        assert not only_ours(data.load, str(place))


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_damaged_run_directories_raise_only_input_errors(finished, folder, count):
    """Any single file is damaged."""
    use(finished)
    parts = ("config.json", "result.json", "metrics.jsonl", "checkpoints")
    files = [path for path in sorted(finished.rglob("*")) if path.is_file()]
    files = [path.relative_to(finished) for path in files if path.relative_to(finished).parts[0] in parts]
    files += [Path(name) for name in parts[:3]] * 5
    copy = folder / "copy"

    @cases(count)
    @given(st.sampled_from(files), SPOILT)
    def fuzz(name, edits):
        copied(finished, copy)
        (copy / name).write_bytes(spoil((copy / name).read_bytes(), edits))
        with watched(folder):
            only_ours(use, copy)

    fuzz()


@pytest.mark.parametrize("count", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_resuming_a_damaged_run_finishes_or_raises_an_input_error(finished, folder, count):
    files = ["config.json", "metrics.jsonl"]
    files += [str(p.relative_to(finished)) for p in finished.rglob("checkpoints/**/*") if p.is_file()]
    copy = folder / "goes on"

    @cases(count)
    @given(st.sampled_from(files), SPOILT)
    def fuzz(name, edits):
        copied(finished, copy)
        (copy / "result.json").unlink()
        (copy / name).write_bytes(spoil((copy / name).read_bytes(), edits))
        fields = {"epochs": 1, "batch_size": 128, "hidden": (4,), "workdir": str(copy), "figures": "none"}
        with watched(folder):
            only_ours(run.train, vae.Config(**fields), vae.build, "vae")

    fuzz()


def test_watch_detects_writes_elsewhere_and_started_programs(folder, tmp_path):
    for offence in (
        lambda: (tmp_path / "elsewhere").write_text(""),
        lambda: pickle.loads(pickle.dumps(Path("x"))),  # noqa: S301
        lambda: subprocess.run(["true"], check=True),
        lambda: (tmp_path / "elsewhere").rename(tmp_path / "there"),
    ):
        with pytest.raises(AssertionError), watched(folder):
            offence()
    with watched(folder):
        (folder / "here").write_text("")


@pytest.mark.parametrize("name", ["zeros.npz", "zeros.npy", "zeros-idx3-ubyte.gz"])
def test_memory_is_bounded_by_the_declared_size(name, tmp_path):
    """64 MiB, all black but one pixel, compress to a few kB; reading them takes a small multiple of 64 MiB."""
    zeros = np.zeros((65536, 32, 32), np.uint8)
    zeros[0, 0, 0] = 255
    path = tmp_path / name
    header = bytes([0, 0, 8, 3]) + np.array(zeros.shape, ">u4").tobytes()
    path.write_bytes(
        {"npz": lambda: npz(x=zeros), "npy": lambda: npy(zeros), "gz": lambda: gzip.compress(header + zeros.tobytes())}[
            name.rsplit(".")[-1]
        ]()
    )
    tracemalloc.start()
    try:
        data.load(str(path))
        assert tracemalloc.get_traced_memory()[1] < 5 * zeros.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("declared", [2**20, 2**33, 2**60])
def test_header_that_declares_more_than_the_file_holds_raises(declared, tmp_path):
    """No memory is allocated for missing bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (declared // 4, 2, 2)}
    )
    (tmp_path / "x.npy").write_bytes(header.getvalue() + bytes(100))
    with pytest.raises(InputError):
        data.load(str(tmp_path / "x.npy"))


def test_config_with_tuples_round_trips_through_json():
    settings = stacked.Config(hidden=(5, 4))
    assert config.from_json(stacked.Config, json.loads(json.dumps(config.to_json(settings)))) == settings
