"""The codec of signals: networks, loss, segments, and its report."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal
from scipy.io import wavfile

import jaxae
from conftest import batch, new_key
from jaxae import nets
from jaxae.experiments import codec as experiment
from jaxae.variants import codec, quantize, spectra
from test_residual import randomized

rng = np.random.default_rng(0)
X = rng.normal(size=(3, 40, 1)).astype(np.float32)
LENGTHS = np.array([40, 25, 7])
MASK = (np.arange(40) < LENGTHS[:, None]).astype(np.float32)
X *= MASK[..., None]
STRIDES = (4, 2)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def convolved(x, layer, stride=1):
    """Cross-correlation with padding SAME, of one signal [T, I]."""
    w, bias = np.asarray(layer["kernel"], np.float64)[:, 0], np.asarray(layer["bias"], np.float64)[0, 0]
    count = -(-len(x) // stride)
    pad = max((count - 1) * stride + len(w) - len(x), 0)
    x = np.pad(x, ((pad // 2, pad - pad // 2), (0, 0)))
    return np.stack([np.einsum("ki,kio->o", x[i * stride : i * stride + len(w)], w) for i in range(count)]) + bias


def unit(x, p):
    return x + convolved(elu(convolved(elu(x), p["first"])), p["last"])


@pytest.fixture(scope="module")
def model():
    net = codec.Codec(
        nets.WaveEncoder((4, 6), STRIDES, 3),
        nets.WaveDecoder((40, 1), (4, 6), STRIDES),
        quantizer=quantize.Residual(tuple(quantize.VQ(8, 3, learned=True, commitment=0.3) for _ in range(2))),
    )
    params = randomized(jax.eval_shape(net.init, new_key(), jnp.asarray(X))["params"])
    return net, {"params": jax.tree.map(lambda leaf: 0.5 * leaf, params)}


def test_encoder_and_decoder_against_numpy(model):
    """The decoder is the transpose of its convolutions: <conv(x), y> = <x, transposed(y)>."""
    _, variables = model
    p, x = variables["params"], X.astype(np.float64)
    expected = []
    for row in x:
        for number, stride in enumerate(STRIDES):
            row = convolved(elu(row) if number else row, p["encoder"][f"down{number}"], stride)
            row = unit(row, p["encoder"][f"level{number}_0"])
        expected.append(convolved(elu(row), p["encoder"]["output"]))
    found = nets.WaveEncoder((4, 6), STRIDES, 3).apply({"params": p["encoder"]}, jnp.asarray(X))
    assert found.shape == (3, 5, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def transposed(z, layer, stride):
        no_bias = {"kernel": np.asarray(layer["kernel"]), "bias": np.zeros((1, 1, z.shape[1]))}
        steps, width = stride * len(z), layer["kernel"].shape[2]
        basis = np.eye(steps * width).reshape(-1, steps, width)
        rows = [np.sum(convolved(one, no_bias, stride) * z) for one in basis]
        return np.reshape(rows, (steps, width)) + np.asarray(layer["bias"])[0, 0]

    z, d = rng.normal(size=(1, 5, 3)), p["decoder"]
    y = convolved(z[0], d["input"])
    for number in (1, 0):
        y = transposed(elu(unit(y, d[f"level{number}_0"])), d[f"up{number}"], STRIDES[number])
    decoder = nets.WaveDecoder((37, 1), (4, 6), STRIDES)
    found = decoder.apply({"params": d}, jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(found[0], y[:37], rtol=1e-3, atol=1e-3)


def test_unequal_numbers_of_strides_and_filters_raise():
    with pytest.raises(ValueError, match=r"strides=\[4\] must have 2 values"):
        nets.WaveEncoder((4, 6), (4,), 3).init(new_key(), jnp.asarray(X))


def stft_terms(x, y, windows, length):
    """Both terms of the STFT loss of two signals, by SciPy."""
    each = []
    for window in windows:
        weights, frames = signal.get_window("hann", window), -(-length // (window // 4))
        powers = []
        for part in (x, y):
            padded = np.concatenate([part, np.zeros(window)])
            z = signal.stft(padded, window=weights, noverlap=3 * window // 4, nperseg=window)[2] * weights.sum()
            powers.append((np.abs(z) ** 2).T[:frames] / np.sum(weights**2) + spectra.FLOOR)
        a, b = np.sqrt(powers)
        each.append((np.linalg.norm(a - b) / np.linalg.norm(a), np.abs(np.log(a / b)).mean()))
    return np.mean(each, 0)


def test_loss_against_scipy(model):
    """Padding has no effect, even where the decoder output is not 0; evaluation uses complete signals."""
    net, variables = model
    loss = jax.jit(codec.loss(net, (8, 16), waveform=0.7, spectrum=0.4, segment=8))
    terms, updates = loss(variables, batch(X, mask=jnp.asarray(MASK), training=False), new_key())
    assert updates == {}
    quantized, outputs = jax.jit(net.apply)(variables, jnp.asarray(X))
    assert np.abs(np.asarray(outputs)[MASK == 0]).max() > 0.01
    for i, length in enumerate(LENGTHS):
        x, y = X[i, :, 0].astype(np.float64), np.asarray(outputs, np.float64)[i, :, 0] * MASK[i]
        convergence, logarithm = stft_terms(x, y, (8, 16), length)
        mae = np.abs(x - y)[:length].mean()
        own = float(quantized.terms["loss"][i]) / 15
        expected = {
            "mae": mae,
            "mse": ((x - y)[:length] ** 2).mean(),
            "convergence": convergence,
            "log_spectrum": logarithm,
            "loss": 0.7 * mae + 0.4 * (convergence + logarithm) + own,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(terms[name][i], value, rtol=1e-3, err_msg=name)
    assert np.isfinite(terms["lsd"]).all()
    assert np.isfinite(terms["si_sdr"]).all()


def test_segments_lie_within_the_signals_at_all_places():
    """Segments of 0, 1, 2, ... are consecutive values below the length, from any place, equal for equal keys."""
    x = np.arange(40, dtype=np.float32)[None, :, None] * np.ones((400, 1, 1), np.float32)
    mask = np.ones((400, 40), np.float32)
    mask[200:, 12:] = 0
    cut, inside = codec.segments(batch(x, mask=jnp.asarray(mask)), new_key(), 10)
    first = np.asarray(cut)[:, 0, 0]
    np.testing.assert_array_equal(np.asarray(cut)[..., 0], first[:, None] + np.arange(10))
    assert set(first[:200]) == set(range(31))
    assert set(first[200:]) == {0, 1, 2}
    assert np.all(inside)
    short, inside = codec.segments(batch(x, mask=jnp.asarray(mask)), new_key(), 20)
    assert np.all(np.asarray(short)[200:, 0] == 0)
    np.testing.assert_array_equal(np.asarray(inside)[200:].sum(1), 12)


def test_training_uses_segments(model):
    net, variables = model
    part = batch(X, mask=jnp.asarray(MASK))
    terms, _ = jax.jit(codec.loss(net, (8,), segment=8))(variables, part, new_key())
    x, mask = codec.segments(part, jax.random.split(new_key())[0], 8)
    y = np.asarray(jax.jit(net.apply)(variables, x)[1])[:, :8]
    expected = (((np.asarray(x) - y) ** 2)[..., 0] * np.asarray(mask)).sum(1) / np.asarray(mask).sum(1)
    np.testing.assert_allclose(terms["mse"], expected, rtol=1e-4)


@pytest.mark.slow
def test_run_writes_sounds_spectrograms_and_the_bit_rate(tmp_path):
    """Twelve frames of two codes of 3 bits each in 48 samples at 400 Hz: 600 bits per second."""
    for number in range(24):
        steps = 48 - number % 3
        tone = np.sin(0.3 * (1 + number % 2) * np.arange(steps))
        wavfile.write(tmp_path / f"{number % 2}_{number}.wav", 400, (20_000 * tone).astype(np.int16))
    small = {"filters": (4, 6), "strides": (2, 2), "codes": 8, "latent": 3, "residual": 2, "kmeans": 1}
    fields = {"windows": (8, 16), "segment": 24, "epochs": 2, "batch_size": 8, "progress": False}
    workdir = tmp_path / "run"
    how = {"target_pattern": r"(\d)_", "workdir": workdir}
    model = jaxae.fit(experiment, str(tmp_path), **how, **small, **fields)
    result = json.loads((workdir / "result.json").read_text())
    assert result["codebook"]["bits_per_second"] == pytest.approx(600)
    assert (workdir / "figures" / "spectrograms.png").exists()
    rate, sound = wavfile.read(workdir / "figures" / "1 original.wav")
    found = jaxae.data.load(str(tmp_path), target_pattern=r"(\d)_", scale="none").test
    assert rate == 400
    np.testing.assert_allclose(sound / 32767, found.x[0, : found.lengths[0], 0], atol=1e-3)
    _, decoded = wavfile.read(workdir / "figures" / "1 reconstruction.wav")
    steps = found.lengths[0]
    again = np.asarray(model.reconstruct(found.x[:1], found.lengths[:1]))[0, :steps, 0]
    np.testing.assert_allclose(decoded / 32767, again.clip(-1, 1), atol=1e-3)
    page = (workdir / "report.html").read_text()
    sounds = re.findall(r'<audio controls preload="none" src="data:audio/wav;base64,', page)
    assert len(sounds) == 2 * min(5, len(found.x))
    assert "media-src data:" in page
