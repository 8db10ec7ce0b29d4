"""Recordings, windows of series, videos, tars, classes and splits from file names."""

import io
import tarfile

import numpy as np
import pytest
from scipy.io import wavfile

import jaxae
from conftest import MNIST
from jaxae import data
from jaxae.commands.main import main
from jaxae.data import recordings
from jaxae.errors import InputError
from test_pictures import PIXELS, save

rng = np.random.default_rng(0)
WAVES = [np.round(20000 * rng.uniform(-1, 1, n)).astype(np.int16) for n in (40, 53, 64, 31, 47, 80, 45, 50, 61, 70, 42)]


def write(folder, waves=WAVES, sample_rate=100, name="{}_{:02}.wav"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, wave in enumerate(waves):
        wavfile.write(folder / name.format("ab"[i % 2], i), sample_rate, wave)
    return str(folder)


def tone(rate, seconds=1.0):
    """A sine of 5 Hz."""
    return (0.5 * np.sin(2 * np.pi * 5 * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.array([-32768, 0, 16384], np.int16), [-1, 0, 0.5]),
        (np.array([-(2**31), 0, 2**30], np.int32), [-1, 0, 0.5]),
        (np.array([0, 128, 192], np.uint8), [-1, 0, 0.5]),
        (np.array([-1, 0, 0.5], np.float32), [-1, 0, 0.5]),
        (np.array([[-1, -1], [0.5, -0.5], [0, 1]], np.float32), [-1, 0, 0.5]),  # two channels
    ],
)
def test_samples_of_every_type_are_between_minus_1_and_1(tmp_path, samples, expected):
    found = data.load(write(tmp_path / "w", [samples] * 2), scale="none", test="0")
    np.testing.assert_allclose(found.train.x[0, :, 0], expected)
    assert (found.kind, found.sample_rate) == ("series", 100)


def test_resampled_sine_is_the_sine_at_the_new_rate():
    """The first and last fifth of the samples are excluded."""
    for rate, wanted in ((400, 300), (300, 400), (441, 80)):
        found = recordings._resampled(tone(rate)[:, None], rate, wanted)[:, 0]
        assert len(found) == wanted
        inside = slice(wanted // 5, -wanted // 5)
        np.testing.assert_allclose(found[inside], tone(wanted)[inside], atol=0.003)


def test_sample_rate_is_the_most_common_one_or_the_chosen_one(tmp_path):
    write(tmp_path / "w", [tone(100)] * 3, 100)
    write(tmp_path / "w", [tone(200)], 200, "other{}{}.wav")
    found = data.load(str(tmp_path / "w"), test="0")
    assert (found.sample_rate, found.train.lengths.tolist()) == (100, [100] * 4)
    assert "1 recording with another sample rate resampled" in found.notes
    assert data.load(str(tmp_path / "w"), test="0", sample_rate=50).train.lengths.tolist() == [50] * 4
    half = data.load(write(tmp_path / "train", [tone(100)] * 2, 100), test=write(tmp_path / "t", [tone(50)] * 2, 50))
    assert half.test.lengths.tolist() == [100] * 2


@pytest.mark.parametrize("hop", [0, 3, 7])
def test_windows_cover_every_step_and_stay_with_their_series(tmp_path, hop):
    found = data.load(write(tmp_path / "w"), scale="none", window=10, hop=hop)
    values = [wave / 32768 for wave in WAVES]
    of = []
    for split in found.splits:
        places = []
        for row in split.x[..., 0]:
            ((number, start),) = [
                (number, start)
                for number, wave in enumerate(values)
                for start in range(len(wave) - 9)
                if np.allclose(wave[start : start + 10], row, atol=1e-6)
            ]
            places.append((number, start))
        of.append(places)
    train, test = ({number for number, _ in places} for places in of)
    assert len(test) == 1
    assert not train & test
    for number, wave in enumerate(values):
        starts = sorted(start for places in of for n, start in places if n == number)
        assert (starts[0], starts[-1]) == (0, len(wave) - 10)
        assert set(np.diff(starts)[:-1]) <= {hop or 10}
    assert found.train.lengths is None


def test_last_windows_of_a_single_series_are_the_test_split(tmp_path):
    np.savez(tmp_path / "stream.npz", x=np.arange(1000.0)[:, None], lengths=[1000])
    found = data.load(str(tmp_path / "stream.npz"), scale="none", window=10)
    assert found.test.x[0, 0, 0] == 900
    assert len(found.train.x) == 90


def test_arrays_and_series_shorter_than_a_window_are_divided_into_windows(tmp_path):
    x = rng.normal(size=(8, 25, 2))
    found = data.from_arrays(x, np.arange(8) % 2, kind="series", window=10, test=x[:1], scale="none")
    np.testing.assert_allclose(found.test.x, np.stack([x[0, s : s + 10] for s in (0, 10, 15)]), rtol=1e-6)
    assert found.train.y.tolist() == np.repeat(np.arange(8) % 2, 3).tolist()
    np.savez(tmp_path / "x.npz", *[rng.normal(size=n) for n in (7, 30)])
    assert data.load(str(tmp_path / "x.npz"), window=10, test="0").train.lengths.tolist() == [7, 10, 10, 10]


def test_classes_and_test_split_follow_from_file_names(tmp_path):
    path = write(tmp_path / "w")
    found = data.load(path, target_pattern="^(.)_", test_pattern=r"_1\d")
    assert (found.classes, found.test.y.tolist()) == (("a", "b"), [0])
    save(tmp_path / "p" / "x", PIXELS[:6], "cat{}.png")
    save(tmp_path / "p" / "y", PIXELS[6:], "dog{}.png")
    found = data.load(str(tmp_path / "p"), target_pattern="dog|cat[0-4]", test_pattern="y/")
    assert found.classes == ("cat0", "cat1", "cat2", "cat3", "cat4", "dog")
    assert found.train.y.tolist() == [-1, 0, 1, 2, 3, 4]
    assert "1 file without a class by target_pattern" in found.notes
    np.testing.assert_array_equal(found.test.x, PIXELS[6:])


@pytest.mark.parametrize("top", ["", "set/"])
@pytest.mark.parametrize("kind", ["", "gz", "xz"])
def test_tar_is_read_as_a_folder(tmp_path, top, kind):
    save(tmp_path / "p" / "a", PIXELS[:8])
    save(tmp_path / "p" / "b", PIXELS[8:])
    path = tmp_path / f"p.tar{'.' * bool(kind)}{kind}"
    with tarfile.open(path, f"w:{kind}") as tar:
        tar.add(tmp_path / "p", arcname=top or ".")
    assert data.load(str(path)).fingerprint() == data.load(str(tmp_path / "p")).fingerprint()
    split, names, *_ = data.examples(data.Options(str(path)))
    assert names[0] == "a/00.png"
    np.testing.assert_array_equal(split.x[:8], PIXELS[:8])


def test_tar_that_writes_elsewhere_raises(tmp_path):
    for name in ("../escaped.png", str(tmp_path.parent / "escaped.png")):
        with tarfile.open(tmp_path / "bad.tar", "w") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            tar.addfile(entry, io.BytesIO(b"png"))
        with pytest.raises(InputError, match=r"bad.tar.*(cannot be unpacked|has no pictures)"):
            data.load(str(tmp_path / "bad.tar"))
        assert not (tmp_path.parent / "escaped.png").exists()


def test_frames_of_videos_are_images_and_stay_together():
    x = rng.integers(0, 256, (20, 5, 4, 6, 3)).astype(np.uint8)
    found = data.from_arrays(x, np.arange(20) % 2)
    assert found.shape == (4, 6, 3)
    assert (len(found.train.x), len(found.test.x)) == (90, 10)
    frames = x.reshape(100, -1)
    places = [int(np.flatnonzero((frames == image.ravel()).all(1))[0]) for image in found.test.x]
    assert places[0] % 5 == places[5] % 5 == 0
    assert np.diff(places).tolist().count(1) >= 8
    assert found.test.y.tolist() == [place // 5 % 2 for place in places]
    assert "20 videos of 5 frames read as images" in found.notes


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"target_pattern": "("}, r"target_pattern=\( is not a valid regular expression"),
        ({"target_pattern": "zebra"}, "target_pattern=zebra matches no file of .*, such as a_00.wav"),
        ({"test_pattern": "wav"}, "test_pattern=wav matches every file"),
        ({"hop": 3}, "hop=3 has no effect without window"),
        ({"size": 64}, "size=64 has no effect on these data; omit it"),
        ({"drop": ("a", "b")}, "drop=a b has no effect on these data"),
        ({"kind": "image"}, "kind=image has no effect: the data are of kind series"),
    ],
)
def test_invalid_options_of_recordings_raise(tmp_path, fields, says):
    with pytest.raises(InputError, match=says):
        data.load(write(tmp_path / "w"), **fields)


@pytest.mark.parametrize("fields", [{"target": "a"}, {"window": 3}, {"sample_rate": 8000}, {"target_pattern": "a"}])
def test_options_without_effect_raise(tmp_path, fields):
    np.save(tmp_path / "x.npy", rng.normal(size=(20, 3)))
    for load in (lambda: data.load(str(tmp_path / "x.npy"), **fields), lambda: data.load("digits", **fields)):
        with pytest.raises(InputError, match=f"{next(iter(fields))}=.* has no effect on these data; omit it"):
            load()


def test_few_damaged_recordings_are_left_out_with_a_note(tmp_path):
    path = write(tmp_path / "w")
    wave = (tmp_path / "w/a_00.wav").read_bytes()
    (tmp_path / "w/a_00.wav").write_bytes(wave[:-20])
    found = data.load(path)
    assert len(found.train.x) + len(found.test.x) == 10
    assert "1 damaged recording left out (a_00.wav)" in found.notes
    (tmp_path / "w/b_01.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="a_00.wav cannot be read"):
        data.load(path)


@pytest.mark.slow
def test_new_recordings_are_resampled_to_the_rate_of_the_model(tmp_path):
    path = write(tmp_path / "w")
    run = tmp_path / "run"
    jaxae.fit("dense", path, window=20, workdir=run, hidden=(8,), latent=2, epochs=1, batch_size=4, progress=False)
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(run), write(tmp_path / "new", [tone(200)], 200), "--out", str(tmp_path / "z.npy")])
    assert ended.value.code == 0
    assert np.load(tmp_path / "z.npy").shape == (5, 2)  # a second at 100 samples per second


def test_tar_with_hidden_files_and_a_readme_beside_its_folder_is_read(tmp_path):
    save(tmp_path / "p" / "set" / "a", PIXELS)
    for name in ("._set", "README.md"):
        (tmp_path / "p" / name).write_text("x")
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        tar.add(tmp_path / "p", arcname="")
    assert data.load(str(tmp_path / "p.tar")).classes == ("a",)


def test_recording_with_an_impossible_sample_rate_is_left_out_as_damaged(tmp_path):
    path = write(tmp_path / "w")
    wavfile.write(tmp_path / "w/a_00.wav", 2**31 - 1, WAVES[0])
    assert "1 damaged recording left out (a_00.wav)" in data.load(path).notes


def test_window_longer_than_all_series_raises(tmp_path):
    with pytest.raises(InputError, match="window=99 exceeds the 80 steps of the longest series"):
        data.load(write(tmp_path / "w"), window=99)


def test_patterns_of_training_do_not_apply_to_new_files(tmp_path):
    path = write(tmp_path / "w")
    how = data.Options(write(tmp_path / "new", name="{}new{}.wav"), target_pattern="^(.)_", test_pattern=r"_1\d")
    assert len(data.examples(how)[0].x) == len(WAVES)
    assert data.load(path, test_pattern=r"_1\d", valid=str(tmp_path / "new")).valid is not None


SPOKEN = MNIST.parent / "spoken-digits" / "recordings.tar"


@pytest.mark.slow
@pytest.mark.skipif(not SPOKEN.exists(), reason="no recordings in JAXAE_DATA")
def test_spoken_digits_have_their_sizes_rate_and_classes():
    how = {"target_pattern": r"^(\d)_", "test_pattern": r"_[0-4]\.wav$", "scale": "none"}
    found = data.load(str(SPOKEN), **how)
    assert (len(found.train.x), len(found.test.x)) == (2700, 300)
    assert np.bincount(found.test.y).tolist() == [30] * 10
    assert (found.sample_rate, int(found.train.lengths.max()), found.classes) == (8000, 18262, tuple("0123456789"))
