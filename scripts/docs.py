"""Build the API reference, with READMEs and scripts as pages: python scripts/docs.py FOLDER

pdoc documents every public module; the page of a package shows its README. Other Markdown files and the scripts have
pages of their own; README.md is index.html. A link or a file name in a README becomes a link to its page, or to a copy.
"""

import dataclasses
import importlib
import os
import pkgutil
import re
import shutil
import sys
from pathlib import Path

import flax.linen as nn
import jinja2
from pdoc import doc, render, render_helpers

import jaxae
from jaxae.commands._docstrings import FIELDS

ROOT = Path(__file__).parents[1]
LINKS = re.compile(r"(?<=\]\()([^)\s:#]+)|(?<!\[)`(\w[\w/-]*(?:\.py|\.md|/))`")
TEMPLATES = {
    "module.html.jinja2": """{% extends "default/module.html.jinja2" %}
{% block module_list_link %}
<a class="pdoc-button module-list-button" href="{{ "../" * module.modulename.count(".") }}index.html">README</a>
{{ super() }}
{% endblock %}
{% block nav_index %}{{ super() }}{% if module.readme %}
<h2>Contents</h2>{{ module.readme.toc_html | safe }}
{% endif %}{% endblock %}
{% block module_contents %}
{% if module.readme %}<section><div class="docstring">{{ module.readme | safe }}</div></section>{% endif %}
{{ super() }}
{% endblock %}""",
    "page.html.jinja2": """{% extends "frame.html.jinja2" %}
{% block title %}{{ title }}{% endblock %}
{% block nav %}
<a class="pdoc-button module-list-button" href="{{ up }}index.html">README</a>
<a class="pdoc-button module-list-button" href="{{ up }}jaxae.html">jaxae</a>
{% if text.toc_html %}<h2>Contents</h2>{{ text.toc_html | safe }}{% endif %}
{% endblock %}
{% block content %}<main class="pdoc"><section class="module-info">
<div class="docstring">{{ text | safe }}</div>
</section></main>{% endblock %}""",
    "custom.css": """main.pdoc { width: calc(75rem + var(--sidebar-width)) }
.docstring td { font-size: 85% }
.docstring td img { max-width: 12rem }""",
}
# The modules of types such as `Float[Array, "B *D"]`, plain or highlighted; the docstrings of every named tuple.
DOT = r'(?:\.|</span><span class="o">\.</span><span class="n">)'
NOISE = re.compile(
    r"\b(?:jaxtyping|typing|(?:jax\.)?jaxlib\._jax)\.(?=[A-Z])".replace(r"\.", DOT)
    + r'|<div class="docstring"><p>(?:Alias for field number|Create new instance of) [^<]*</p>\s*</div>'
)


def modules() -> dict[str, doc.Module]:
    """The public modules by name, each added to the `__all__` of its package. Resolves the lazy names of jaxae."""
    vars(jaxae).update({name: getattr(jaxae, name) for name in jaxae.__all__})
    found = [jaxae]
    for info in pkgutil.walk_packages(jaxae.__path__, "jaxae."):
        package, _, name = info.name.rpartition(".")
        if not name.startswith("_"):
            found.append(importlib.import_module(info.name))
            if exported := getattr(sys.modules[package], "__all__", None):
                exported.append(name)
    return {module.__name__: described(doc.Module(module)) for module in found}


def described(module: doc.Module) -> doc.Module:
    """The module, prepared for rendering: see `describe_flax` and `describe_arguments`."""
    for kind in module.classes:
        if issubclass(kind.obj, nn.Module):
            describe_flax(kind)
    describe_arguments(module, [*FIELDS])
    for member in (*module.members.values(), *(m for kind in module.classes for m in kind.members.values())):
        if isinstance(member, doc.Class):
            describe_arguments(member, list(member.members))
        elif isinstance(member, doc.Function) and member.docstring:
            describe_arguments(member, list(member.signature.parameters))
    return module


def describe_flax(kind: doc.Class) -> None:
    """Show `__call__`, hide the members that Flax adds, and show fields whose default is a function as fields."""
    for name in {*dir(nn.Module), "name", "parent", "scope"} - {"__init__"}:
        kind.members.pop(name, None)
    if "__call__" in kind.members:
        kind.members["__call__"].docstring += "@public"
    for field in dataclasses.fields(kind.obj):
        if isinstance(member := kind.members.get(field.name), doc.Function):
            place = member.modulename, member.qualname
            new = doc.Variable(*place, taken_from=member.taken_from, docstring="", annotation=field.type)
            kind.members[field.name] = new


def describe_arguments(member: doc.Doc, names: list[str]) -> None:
    """Put each argument and each error in a docstring ("name: ...", "ValueError for ...") on a line of its own."""
    name = "|".join(names) or "(?!)"
    argument = rf"(?:^|\n|(?<=[.;]) )((?:(?:{name}), )*(?:{name})): "
    text = re.sub(argument, r"  \n**\1**: ", member.docstring)
    member.docstring = re.sub(
        r"(?:\n|(?<=\.) )(\w+Error|errors\.\w+)(?= (?:for|if|unless|where)\b)", r"  \n**\1**", text
    )


def markdown(path: Path) -> str:
    """A file as Markdown; a Python file becomes one code block, or text and code blocks if it has cells (`# %%`)."""
    if path.suffix == ".md":
        return path.read_text()
    head, *cells = re.split(r"^# %%(.*)\n", path.read_text(), flags=re.MULTILINE)
    text = [] if cells else [f"# {path.name}\n\n```python\n{head}```\n"]
    for kind, cell in zip(cells[::2], cells[1::2], strict=True):
        prose = "[markdown]" in kind
        text.append(re.sub("^# ?", "", cell, flags=re.MULTILINE) if prose else f"```python\n{cell.strip()}\n```\n")
    return "\n".join(text)


def html(source: Path, site: Path, pages: dict[Path, str]) -> str:
    """Render this file; links lead to the pages of files, and files without a page are copied."""

    def link(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        target = next((path for path in (source.parent / name, ROOT / name) if path.exists()), None)
        target = target and target.resolve()
        if target is None or (target.is_dir() and target not in pages):
            return match[0]
        if target not in pages:
            pages[target] = str(target.relative_to(ROOT))
            (site / pages[target]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, site / pages[target])
        url = os.path.relpath(pages[target], Path(pages[source]).parent)
        return url if match[1] else f"[{match[0]}]({url})"

    return render_helpers.to_html(LINKS.sub(link, markdown(source)))


def build(site: Path) -> None:
    """Write the site into this folder."""
    env = render.env
    env.loader = jinja2.ChoiceLoader([jinja2.DictLoader(TEMPLATES), env.loader])
    found = modules()
    pages: dict[Path, str] = {}  # path within the site of a file or a folder
    for name, module in found.items():
        file, page = module.source_file.resolve(), name.replace(".", "/") + ".html"
        pages |= {file: page} | ({file.parent: page, file.parent / "README.md": page} if module.is_package else {})
    files = [path for folder in ("jaxae", "experiments", "scripts", "tests") for path in (ROOT / folder).rglob("*.md")]
    own = [path for path in (*files, *(ROOT / "scripts").rglob("*.py")) if path not in pages]
    for path in own:
        pages[path] = str(path.relative_to(ROOT).with_suffix(".html"))
        if path.name == "README.md":
            pages[path.parent] = pages[path]
    pages[ROOT] = pages[ROOT / "README.md"] = "index.html"

    for path in (ROOT / "README.md", *own):
        title, up = pages[path].removesuffix(".html"), "../" * pages[path].count("/")
        text = html(path, site, pages)
        write(site / pages[path], env.get_template("page.html.jinja2").render(title=title, up=up, text=text))
    for module in found.values():
        file = module.source_file.resolve()
        readme = file.with_name("README.md")
        module.readme = html(readme, site, pages) if module.is_package and readme.exists() else ""
        write(site / pages[file], render.html_module(module, found))
    write(site / "search.js", render.search_index(found))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(NOISE.sub("", text).replace(f"{ROOT}/", ""))


if __name__ == "__main__":
    build(Path(sys.argv[1]))
