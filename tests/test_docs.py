"""The site that `scripts/docs` builds: every module has a page, and no link is broken."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]


class Page(HTMLParser):
    """The links and the anchors of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value)
            elif name in ("href", "src") and value is not None and not urlsplit(value).scheme:
                self.links.add(value)


def broken_links(site):
    """Links within this folder to a missing file or anchor: (page, link)."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else ()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append((str(path.relative_to(site.resolve())), link))
    return broken


@pytest.mark.parametrize(
    ("link", "intact"),
    [
        ('<a href="other/page.html">', True),
        ('<a href="other/page.html#here">', True),
        ('<a href="#top" id="top">', True),
        ('<img src="picture.png">', True),
        ('<a href="https://example.org/none.html#none">', True),
        ('<img src="data:image/png;base64,AAAA">', True),
        ('<a href="page.html">', False),
        ('<a href="other">', False),
        ('<a href="other/page.html#there">', False),
        ('<a href="#there">', False),
        ('<img src="none.png">', False),
    ],
)
def test_broken_links_are_found(link, intact, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/page.html").write_text('<a href="../index.html"><p id="here">')
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(link)
    assert (broken_links(tmp_path) == []) == intact


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/docs.py", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_site_has_no_broken_link(site):
    assert broken_links(site) == []


@pytest.mark.slow
def test_every_public_module_has_a_page(site):
    modules = [
        path.relative_to(ROOT)
        for folder in ("jaxae", "jaxae/experiments")
        for path in (ROOT / folder).rglob("*.py")
        if not any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(ROOT).parts)
    ]
    assert len(modules) > 100
    for path in modules:
        place = path.parent if path.name == "__init__.py" else path
        assert (site / place.with_suffix(".html")).is_file(), path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("index.html", ['href="jaxae/experiments/binary.html"', 'src="experiments/vae.png"']),
        (
            "jaxae.html",
            [
                'id="fit"',
                'id="Trained.sample"',
                "A trained model",
                "<strong>seeds</strong>: train this many",
                "Data flow",
            ],
        ),
        ("jaxae/experiments.html", ["Published and measured", 'href="experiments/vae.html"']),
        ("jaxae/experiments/vae.html", ["<strong>Command</strong>: jaxae vae --data mnist"]),
        ("jaxae/nets/mlp.html", ['id="MLP.__call__"', ">Float<"]),
        ("jaxae/report/page/README.html", ["Jinja templates"]),
        ("scripts/README.html", ["For contributors", 'href="examples/README.html"']),
        ("scripts/examples/README.html", ['href="own_data.html"']),
        ("scripts/examples/new_variant.html", ['id="the-loss"', 'href="../../index.html"']),
        ("tests/README.html", ["runs lint, types and the default suite"]),
    ],
)
def test_page_shows_docstrings_and_readme(page, shown, site):
    text = (site / page).read_text()
    for part in shown:
        assert part in text
