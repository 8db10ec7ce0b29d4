"""`scripts/speech.py` on short signals, without its training and without Opus."""

import numpy as np
import pytest

from conftest import script
from jaxae.data import Dataset, Split

speech = script("speech")
T = 4096


def test_pictures_show_the_level_of_a_sine_at_its_frequency():
    """A sine of amplitude a has the power a^2 / 4 * 128 / (3 / 8) in its frequency, a quarter in its neighbours."""
    amplitude = 4.0
    x = amplitude * np.sin(2 * np.pi * 20 / 128 * np.arange(T))
    found = speech.pictures(np.stack([x, 0 * x])[..., None].astype(np.float32))
    assert found.shape == (2, *speech.SIZE, 1)
    level = 10 * np.log10(amplitude**2 / 4 * 128 / 1.5 * (1 + 1 / 4) / 2)
    np.testing.assert_allclose(found[0, 10, 2:-2, 0], (level + 50) / 100, atol=1e-3)
    assert np.argmax(found[0, :, 30, 0]) == 10
    assert np.all(found[1] == 0)


def test_packet_bytes_of_an_ogg_file_exclude_headers():
    """Pages of 19, 30, 15 + 15 and 255 + 7 bytes; the first two are headers."""
    pages = [[19], [30], [15, 15], [255, 7]]
    ogg = b"".join(b"OggS" + bytes(22) + bytes([len(p), *p]) + b"x" * sum(p) for p in pages)
    assert list(speech.packets(ogg)) == [30, 262]
    with pytest.raises(ValueError, match="byte 47 does not start a page"):
        list(speech.packets(ogg[:47] + b"!" + ogg[48:]))


def test_row_ignores_padding_and_measures_a_gain():
    x = np.random.default_rng(0).normal(size=(3, 2100, 1)).astype(np.float32)
    split = Split(x, np.zeros(3, int), np.array([2100, 500, 300]))
    split = split._replace(x=x * speech.within(split)[..., None])
    data = Dataset(split, split, ("a",), "series", sample_rate=8000)
    y = 2 * split.x
    y[2, 300:] = 9
    line = speech.row("codec", 3000.0, y, data, lambda _: 0.875)
    name, rate, distance, ratio, accuracy = (part.strip() for part in line.strip("|").split("|"))
    assert (name, rate, distance, accuracy) == ("codec", "3,000", "6.02 dB", "87.5%")
    assert float(ratio.split()[0]) > 60
