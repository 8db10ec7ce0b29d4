"""HTML reports of one run and of several, opened in Chromium."""

import io
import json
import os
import re
import shlex
import shutil
from base64 import b64decode
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxae
from conftest import HOSTILE, call, trained
from jaxae import data, run
from jaxae.commands import compare
from jaxae.core.experiment import Experiment
from jaxae.core.step import Transition
from jaxae.errors import InputError
from jaxae.experiments import dense, vae
from jaxae.report import figures, html
from jaxae.report.wall import sheet, small
from jaxae.run import command_line, config, results
from jaxae.training import records

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A 2-D VAE with two seeds, and a dense autoencoder with 10 latent dimensions, on the embedded digits."""
    folder = tmp_path_factory.mktemp("runs")
    flat = vae.Config(epochs=3, hidden=(64,), seeds=2, workdir=str(folder / "vae"))
    deep = dense.Config(
        epochs=6, batch_size=100, hidden=(64,), latent=10, figures="none", workdir=str(folder / "dense")
    )
    workdirs = run.train(flat, vae.build, "vae"), run.train(deep, dense.build, "dense")
    assert call("report", workdirs[1]) == 0  # only the report, no figures
    return workdirs


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.getuid() == 0 else []
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a page; on exit assert that it made no request and logged no error."""
    contexts, said, asked = [], [], []

    def go(path, **options):
        contexts.append(browser.new_context(viewport={"width": 1200, "height": 1400}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        if page.query_selector("#wall"):
            page.wait_for_selector("#wall[data-ready]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def pixels(page, canvas):
    """A canvas [H, W] of the page, with values in [0, 1]."""
    read = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    found = np.array(page.eval_on_selector(f"#{canvas}", read), np.float64).reshape(28, 28, 4) / 255
    assert (found[..., 3] == 1).all()
    assert np.array_equal(found[..., 0], found[..., 1])
    return found[..., 0]


def embedded(page):
    """The JSON values embedded in a page."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(text)


def point(page, u, v, do="move"):
    """Move the pointer to a point of the latent space: fractions of width and height from the lower left corner."""
    box = page.query_selector("#wall").bounding_box()
    x, y = box["x"] + u * box["width"], box["y"] + (1 - v) * box["height"]
    {"move": page.mouse.move, "click": page.mouse.click, "tap": page.touchscreen.tap}[do](x, y)


@pytest.mark.slow
def test_pixels_under_the_pointer_are_those_of_the_decoder(runs, visit):
    """Exact to one grey level on the grid, bilinear between grid points; also by touch."""
    model, page = jaxae.load(runs[0])[0], visit(runs[0] / "report.html", has_touch=True)
    wall = embedded((runs[0] / "report.html").read_text())["wall"]
    low, high, n = np.array(wall["low"]), np.array(wall["high"]), wall["n"]
    assert n >= 16
    for number, (u, v) in enumerate([(3 / (n - 1), 5 / (n - 1)), (0.4137, 0.6291), (0.513, 0.122), (0.87, 0.5)]):
        point(page, u, v, "tap" if number == 3 else "move")
        shown = np.array([float(part.split("=")[1]) for part in page.inner_text("#place").split(",")])
        np.testing.assert_allclose(shown, low + np.array([u, v]) * (high - low), atol=2e-3 * np.max(high - low))
        at = (shown - low) / (high - low) * (n - 1)
        base = np.minimum(np.floor(at), n - 2)
        corners = low + (base + np.array([[0, 0], [1, 0], [0, 1], [1, 1]])) / (n - 1) * (high - low)
        a, b = at - base
        weights = np.array([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
        neighbours = np.asarray(model.decode(corners))[..., 0]
        painted = pixels(page, "painted")
        np.testing.assert_allclose(painted, np.tensordot(weights, neighbours, 1), atol=1.5 / 255)
        np.testing.assert_allclose(painted, np.asarray(model.decode(shown[None]))[0, ..., 0], atol=0.03)
        assert painted.std() > 0.05


def test_click_shows_the_original_beside_its_reconstruction(runs, visit):
    model, page = jaxae.load(runs[0])[0], visit(runs[0] / "report.html")
    digits = data.load("digits")
    wall = embedded((runs[0] / "report.html").read_text())["wall"]
    low, high, codes = np.array(wall["low"]), np.array(wall["high"]), wall["codes"]
    z = np.asarray(model.encode(digits.test.x[codes["numbers"]]))
    np.testing.assert_allclose(np.stack([codes["x"], codes["y"]], 1), z, atol=1e-4)
    assert not page.is_visible("#pair")
    for index in (3, 40):
        point(page, *(z[index] - low) / (high - low), "click")
        said = page.inner_text("#chosen")
        number = int(said.split()[2].rstrip(","))
        chosen = codes["numbers"].index(number)  # the nearest code, or one at the same distance
        assert np.max(np.abs(z[chosen] - z[index]) / (high - low)) < 0.005
        assert said == f"test example {number}, class {digits.classes[digits.test.y[number]]}"
        np.testing.assert_allclose(pixels(page, "original"), digits.test.x[number, ..., 0] / 255, atol=1e-6)
        decoded = np.asarray(model.reconstruct(digits.test.x[number : number + 1]))[0, ..., 0]
        np.testing.assert_allclose(pixels(page, "decoded"), decoded, atol=0.51 / 255)


def test_arrow_keys_move_and_enter_selects_the_nearest_code(runs, visit):
    page = visit(runs[0] / "report.html")
    wall = embedded((runs[0] / "report.html").read_text())["wall"]
    low, high = np.array(wall["low"]), np.array(wall["high"])
    page.focus("#wall")
    for keys, expected in (
        ("ArrowRight ArrowUp ArrowUp", (0.51, 0.52)),
        ("Shift+ArrowLeft Shift+ArrowDown", (0.41, 0.42)),
    ):
        for key in keys.split():
            page.keyboard.press(key)
        shown = [float(part.split("=")[1]) for part in page.inner_text("#place").split(",")]
        np.testing.assert_allclose(shown, low + np.array(expected) * (high - low), atol=6e-4)
    page.keyboard.press("Enter")
    places = np.stack([wall["codes"]["x"], wall["codes"]["y"]], 1)
    nearest = np.argmin(np.sum(((places - shown) / (high - low)) ** 2, axis=1))
    assert page.inner_text("#chosen").startswith(f"test example {wall['codes']['numbers'][nearest]},")


def test_further_principal_components_have_sliders(runs, visit):
    """Each slider moves the code along its principal component."""
    model, page = jaxae.load(runs[1]), visit(runs[1] / "report.html")
    wall = embedded((runs[1] / "report.html").read_text())["wall"]
    z = np.asarray(model.encode(data.load("digits").test.x), np.float64)
    assert len(wall["sliders"]) + wall["without"] == 8
    values, vectors = np.linalg.eigh(np.cov(z.T, bias=True))
    plane = vectors[:, ::-1][:, :2].T
    spread = np.sqrt(np.sum(((z - z.mean(0)) @ plane.T) ** 2) / np.sum((z - z.mean(0)) ** 2))
    shares = [float(re.search(r"([\d.]+)%", label)[1]) / 100 for label in wall["labels"]]
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum(), atol=6e-4)
    assert 0.2 < spread < 1
    (first, _), offset = page.query_selector_all(".slider input")[:2], 1
    low, high = np.array(wall["low"]), np.array(wall["high"])
    point(page, 0.25, 0.75)  # on a point of the sliders' grid (5 x 5 or 3 x 3 points), or between two points
    before = pixels(page, "painted")
    first.evaluate(f"i => {{ i.value = {offset}; i.dispatchEvent(new Event('input')) }}")
    after = pixels(page, "painted")
    place = np.array([float(part.split("=")[1]) for part in page.inner_text("#place").split(",")])
    directions = np.linalg.svd(z - z.mean(0), full_matrices=False)[2][:3]
    codes = np.stack([wall["codes"]["x"], wall["codes"]["y"]])
    ours = directions[:2] @ (z - z.mean(0))[wall["codes"]["numbers"]].T
    plane = (
        directions[:2] * np.sign(np.sum(ours * codes, axis=1))[:, None]
    )  # principal directions are defined up to sign
    code = z.mean(0) + place @ plane
    ends = [code + sign * offset * np.sqrt(values[::-1][2] * len(z) / (len(z) - 1)) * directions[2] for sign in (1, -1)]
    still, *either = np.asarray(model.decode(np.stack([code, *ends])))[..., 0]
    expected = min(either, key=lambda image: np.abs(image - after).max())
    np.testing.assert_allclose(before, still, atol=0.05)
    np.testing.assert_allclose(after, expected, atol=0.08)
    assert np.abs(after - before).max() > 0.1
    assert ((low < place) & (place < high)).all()


def test_curves_show_the_metrics_under_the_pointer_and_by_keys(runs, visit):
    page = visit(runs[0] / "report.html")
    lines = records.read(runs[0] / "metrics.jsonl")
    names = [title.inner_text() for title in page.query_selector_all(".chart h3")]
    assert names[0] == "loss"
    assert set(names) == set(records.names(lines[0]))
    for name, chart in zip(names, page.query_selector_all(".chart"), strict=True):
        svg = chart.query_selector("svg[role=application]")
        svg.scroll_into_view_if_needed()
        box = svg.bounding_box()
        page.mouse.move(
            box["x"] + 0.55 * box["width"], box["y"] + 0.4 * box["height"]
        )  # the middle of the axis: epoch 2
        read = chart.query_selector(".read")
        for epoch in (2, 1):
            expected = {line["split"]: line for line in lines if line["epoch"] == epoch}
            rows = read.inner_text().replace("\n", " ")
            assert rows.startswith(f"epoch {epoch} ")
            for split, line in expected.items():
                text = re.search(rf"{split} (\S+) ± (\S+)", rows)
                assert float(text[1]) == pytest.approx(line[name]["mean"], rel=1e-3)
                assert float(text[2]) == pytest.approx(line[name]["std"], rel=1e-3)
            svg.focus()
            page.keyboard.press("ArrowLeft")


def test_hostile_text_is_escaped(runs, visit, tmp_path):
    """The text is in title, class, field, value, metric and file name."""
    workdir = tmp_path / "run"
    shutil.copytree(runs[0], workdir, ignore=shutil.ignore_patterns("checkpoints"))
    saved = json.loads((workdir / "config.json").read_text())
    saved["config"][HOSTILE] = saved["command"] = HOSTILE
    (workdir / "config.json").write_text(json.dumps(saved))
    lines = [{**line, HOSTILE: 1.0} for line in records.read(workdir / "metrics.jsonl")]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copy(workdir / "figures" / "loss.png", workdir / "figures" / "<img src=x>.png")
    digits = data.load("digits")._replace(classes=(HOSTILE,) * 10)
    result = json.loads((workdir / "result.json").read_text())
    result["metrics"][HOSTILE] = 1.0
    results.write_report(workdir, HOSTILE, jaxae.load(runs[0])[0], digits, result)
    page = visit(workdir / "report.html")
    assert page.title() == HOSTILE
    assert page.inner_text("h1") == HOSTILE
    page.focus("#wall")
    page.keyboard.press("Enter")
    assert page.inner_text("#chosen").endswith(f"class {HOSTILE}")
    assert page.inner_text("pre") == HOSTILE
    assert HOSTILE in page.inner_text(".charts")
    assert HOSTILE in page.inner_text(".cards")
    assert page.inner_text("#legend").count(HOSTILE) == 10
    assert page.query_selector("img[alt='<img src=x>']")
    assert len(page.query_selector_all("script:not([id])")) == 1
    assert page.title() == HOSTILE


def test_content_security_policy_blocks_an_injected_script(runs, tmp_path, browser):
    text = (runs[0] / "report.html").read_text().replace("</main>", "</main><script>document.title = 'taken'</script>")
    (tmp_path / "page.html").write_text(text)
    page = browser.new_page()
    refused = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "vae on digits"
    assert any("Content Security Policy" in text for text in refused)
    page.close()


def test_report_has_command_versions_and_no_external_address(runs):
    text = (runs[0] / "report.html").read_text()
    assert len(text) < 3_000_000
    command = json.loads((runs[0] / "config.json").read_text())["command"]
    assert command == "jaxae vae --epochs 3 --seeds 2 --hidden 64"
    assert f"<pre>{command}</pre>" in text
    again = command_line.parse(vae.Config, "", shlex.split(command)[2:])
    saved = json.loads((runs[0] / "config.json").read_text())["config"]
    assert config.to_json(again) == {**saved, "workdir": ""}
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    for part in (jax.__version__, "end to end", "Decoded grid of the 2-D latent space", "default-src &#39;none&#39;"):
        assert part in text


def test_report_of_incompressible_images_stays_small(runs):
    """The images are noise."""
    model = jaxae.load(runs[0])[0]
    noise = np.random.default_rng(0).integers(0, 256, (4000, 28, 28, 1), dtype=np.uint8)
    split = data.Split(noise, np.arange(4000) % 10)
    wall = html.wall(model, data.Dataset(split, split, ()))
    assert len(json.dumps(wall)) < 1_500_000
    assert len(wall["codes"]["x"]) >= 32


def test_sheet_arranges_images_row_by_row(runs):
    images = np.random.default_rng(0).random((40, 3, 5, 3))
    picture = Image.open(io.BytesIO(b64decode(sheet(images).split(",")[1])))
    found = np.asarray(picture) / 255
    for number in (0, 31, 32, 39):
        top, left = number // 32 * 3, number % 32 * 5
        np.testing.assert_allclose(found[top : top + 3, left : left + 5], images[number], atol=0.51 / 255)


def test_report_written_again_is_bit_exact(runs, capsys):
    before = (runs[0] / "report.html").read_bytes()
    assert call("report", runs[0]) == 0
    assert (runs[0] / "report.html").read_bytes() == before
    assert str(runs[0] / "report.html") in capsys.readouterr().out


def test_comparison_shows_metrics_curves_and_reconstructions_of_each_run(runs, tmp_path, visit):
    out = tmp_path / "compare.html"
    assert call("compare", *runs, "--out", out) == 0
    page = visit(out)
    rows = [[cell.inner_text() for cell in row.query_selector_all("th, td")] for row in page.query_selector_all("tr")]
    head = rows[0]
    for path, row in zip(runs, rows[1:3], strict=True):
        metrics = json.loads((path / "result.json").read_text())["metrics"]
        cells = dict(zip(head, row, strict=True))
        assert cells["run"] == path.name
        assert cells["mse"] == html.figure(metrics["mse"])
        assert ("±" in cells["mse"]) == (path == runs[0])
    charts = {chart["title"]: chart for chart in embedded(out.read_text())["charts"]}
    series = {line["label"]: line for line in charts["mse"]["series"]}
    assert set(series) == {"vae train", "vae test", "dense train", "dense test"}
    assert series["dense test"]["mean"] == [
        ln["mse"] for ln in records.read(runs[1] / "metrics.jsonl") if ln["split"] == "test"
    ]
    assert len(charts["kl"]["series"]) == 2  # the dense model has none
    strips = {
        strip.get_attribute("alt"): strip.get_attribute("src") for strip in page.query_selector_all(".strips img")
    }
    assert list(strips) == ["original", "vae", "dense"]
    digits = data.load("digits").test.x
    chosen = digits[np.linspace(0, len(digits) - 1, 10).astype(int)]
    for label, path in zip(("vae", "dense"), runs, strict=True):
        strip = np.asarray(Image.open(io.BytesIO(b64decode(strips[label].split(",")[1])))) / 255
        for number, image in enumerate(np.asarray(jaxae.load(path)[0].reconstruct(chosen))):
            tile = strip[1:29, 30 * number + 1 : 30 * number + 29]
            np.testing.assert_allclose(tile, image[..., 0], atol=0.51 / 255)
    assert "latent" in page.inner_text("main")


def test_unfinished_and_changed_runs_raise_one_line_errors(runs, tmp_path, capsys):
    other, unfinished = tmp_path / "other", tmp_path / "unfinished"
    for path in (other, unfinished):
        shutil.copytree(runs[0], path)
    (unfinished / "result.json").unlink()
    saved = json.loads((other / "config.json").read_text())
    saved["data"]["fingerprint"] = "0" * 64
    (other / "config.json").write_text(json.dumps(saved))
    for name, arguments, message in (
        ("report", [tmp_path], "holds no run"),
        ("report", [unfinished], "is not finished: jaxae vae"),
        ("report", [unfinished], f"--workdir {unfinished} resumes it"),
        ("report", [other], "its data, digits, has changed since"),
        ("compare", [runs[0], runs[0]], "passed twice"),
        ("compare", [runs[0], unfinished], "is not finished"),
        ("compare", [runs[0], "--out", tmp_path], "cannot be written"),
    ):
        assert call(name, *arguments) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    with pytest.raises(InputError, match="its data"):
        run.load_finished(other)
    assert not (tmp_path / "compare.html").exists()


def test_runs_of_the_same_name_are_labelled_by_their_paths(tmp_path):
    labels = compare._labels([tmp_path / "a" / "vae", tmp_path / "b" / "vae"])
    assert labels == [str(Path("a/vae")), str(Path("b/vae"))]


def made(path, codes, **changes):
    """The report of a model whose codes are the first numbers of an example, and whose decoder repeats their mean."""

    class Plain(nn.Module):
        def encode(self, x, mask=None):
            return x.reshape(len(x), -1)[:, :codes]

        def __call__(self, x, mask=None):
            return self.encode(x), x

        def decode(self, z):
            return jnp.broadcast_to(z.mean(1).reshape(-1, *(1,) * len(shape)), (len(z), *shape))

    digits = data.load("digits")
    test = digits.test._replace(**changes)
    shape = test.x.shape[1:]
    sequences = test.lengths is not None
    model = trained(Experiment(Plain(), Transition(dict, dict), dict, sequences=sequences), {}, {}, shape)
    source = path.parent / "source"
    (path / "figures").mkdir(parents=True)
    for name in ("config.json", "metrics.jsonl", "result.json"):
        shutil.copy(source / name, path / name)
    dataset = data.Dataset(test, test, digits.classes)
    figures.draw(path / "figures", model, dataset, records.read(path / "metrics.jsonl"), "plain")
    results.write_report(path, "plain", model, dataset, json.loads((path / "result.json").read_text()))
    return path / "report.html"


RNG = np.random.default_rng(0)
COUNT = 40
UNUSUAL = {
    "one test example": (4, {"x": RNG.random((1, 4, 4, 1), np.float32), "y": np.zeros(1, int)}),
    "two test examples": (4, {"x": RNG.random((2, 4, 4, 1), np.float32), "y": np.zeros(2, int)}),
    "all the same": (3, {"x": np.zeros((COUNT, 4, 4, 1), np.uint8), "y": np.zeros(COUNT, int)}),
    "a code of one number": (1, {"x": RNG.random((COUNT, 4, 4, 1), np.float32), "y": np.full(COUNT, -1)}),
    "transparent": (2, {"x": RNG.random((COUNT, 4, 6, 4), np.float32), "y": np.arange(COUNT) % 10}),
    "large and in colour": (5, {"x": RNG.integers(0, 256, (COUNT, 160, 128, 3), np.uint8), "y": np.arange(COUNT) % 10}),
    "sequences of numbers": (
        3,
        {"x": RNG.random((COUNT, 59, 1), np.float32), "y": np.full(COUNT, -1), "lengths": np.arange(COUNT) + 5},
    ),
}


LONG = ("two test examples", "all the same", "a code of one number", "large and in colour", "sequences of numbers")


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.slow] * (case in LONG)) for case in UNUSUAL])
def test_report_of_unusual_data_fits_a_phone(case, runs, tmp_path, visit):
    """No element is wider than the screen, and the file is small."""
    (tmp_path / "source").symlink_to(runs[0])
    codes, changes = UNUSUAL[case]
    path = made(tmp_path / "run", codes, **changes)
    wall = embedded(path.read_text())["wall"]
    assert (wall is None) == (codes == 1 or case in ("one test example", "all the same"))
    assert path.stat().st_size < 3_000_000
    page = visit(path)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    if wall:
        assert page.query_selector("#painted").bounding_box()["height"] < 360
    if case == "transparent":
        x = changes["x"]
        sheet = np.asarray(Image.open(io.BytesIO(b64decode(wall["codes"]["originals"].split(",")[1])))) / 255
        number = wall["codes"]["numbers"][0]
        on_white = x[number, ..., :3] * x[number, ..., 3:] + 1 - x[number, ..., 3:]
        np.testing.assert_allclose(sheet[:4, :6], on_white, atol=0.51 / 255)
    if case == "sequences of numbers":
        number, height = wall["codes"]["numbers"][1], wall["size"][0]
        sheet = np.asarray(Image.open(io.BytesIO(b64decode(wall["codes"]["originals"].split(",")[1])))) / 255
        length = changes["lengths"][number]
        assert (height, wall["codes"]["lengths"][1]) == (1, length)  # a row for each dimension, drawn up to the length
        np.testing.assert_allclose(sheet[0, 59 : 59 + length], changes["x"][number, :length, 0], atol=0.51 / 255)
        page.focus("#wall")
        page.keyboard.press("Enter")
        shown = wall["codes"]["numbers"].index(int(page.inner_text("#chosen").split()[2]))
        expected = (wall["codes"]["lengths"][shown] - 0.5) / 59
        for canvas in ("original", "decoded"):
            assert drawn_until(page, canvas) == pytest.approx(expected, abs=0.02)


def drawn_until(page, canvas):
    """The largest x of a curve on a canvas, as a fraction of its width."""
    read = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    found = np.array(page.eval_on_selector(f"#{canvas}", read)).reshape(320, 480, 4)
    return np.flatnonzero((found[..., 0] < 200).any(0)).max() / 480


def test_large_images_are_downsampled_by_averaging():
    x = RNG.random((3, 130, 64, 3))
    shrunk = small(x)
    assert shrunk.shape == (3, 44, 22, 3)  # by 3; 128 pixels would be downsampled by 2
    np.testing.assert_allclose(shrunk[1, 5, 7], x[1, 15:18, 21:24].mean((0, 1)))
    assert small(x[:, :64]).shape == (3, 64, 64, 3)


@pytest.mark.slow
def test_class_names_are_not_parsed_as_mathematics_in_figures(runs, monkeypatch):
    """Matplotlib's mathtext cannot parse a class name like $a^$."""
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    texts = []

    def save(figure, path, **options):
        figure.draw_without_rendering()
        texts.extend(text.get_text() for text in figure.findobj(Text) if text.get_visible())

    monkeypatch.setattr(Figure, "savefig", save)
    digits = data.load("digits")
    few = data.Dataset(digits.train, data.Split(digits.test.x[:12], digits.test.y[:12]), digits.classes)
    for dataset in (digits, few):
        figures.draw(
            runs[0] / "unused", jaxae.load(runs[0])[0], dataset, records.read(runs[0] / "metrics.jsonl"), "title"
        )
    assert len(texts) > 100
    assert [text for text in texts if "mathdefault" in text or "$" in text] == []


def test_cards_show_which_expected_results_were_reached(runs):
    result = json.loads((runs[0] / "result.json").read_text())
    result["expected"] = {"mse": 1.0, "loss": [0.0, 1.0]}
    cards = {card["name"]: card for card in html._cards(result, "nats per {example}", "image")}
    assert (cards["test mse"]["expected"], cards["test mse"]["reached"]) == ("≤ 1", True)
    assert (cards["test loss"]["expected"], cards["test loss"]["reached"]) == ("0 to 1", False)
    assert cards["test kl"]["expected"] == ""


@pytest.mark.slow
def test_failing_figure_keeps_the_result(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    settings = dense.Config(epochs=1, batch_size=100, hidden=(8,), latent=3, workdir=str(tmp_path / "run"))

    def fail(*args, **options):
        raise RuntimeError("no ink")

    monkeypatch.setattr(Figure, "subplots", fail)  # of the first figure
    with pytest.raises(RuntimeError, match="no ink"):
        run.train(settings, dense.build, "dense")
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    last = records.read(tmp_path / "run" / "metrics.jsonl")[-1]
    assert metrics == {name: value for name, value in last.items() if name != "split"}


@pytest.mark.slow
def test_latents_of_a_language_model_are_shown_in_their_text(sparse_run, visit):
    """The report finds the tokens beside the array; their texts are escaped, and shaded without inline styles."""
    assert call("report", sparse_run) == 0
    page = visit(sparse_run / "report.html")
    assert page.title() == "topk on activations.npy"
    assert "Over 200 of 200 tokens" in page.inner_text("main")
    spans = page.query_selector_all(".latent .contexts span")
    assert {span.inner_text().strip() for span in spans} == {"[CLS]", "the", HOSTILE, "s"}
    darkest = page.query_selector(".contexts .s9")
    assert darkest.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(43, 108, 176)"
