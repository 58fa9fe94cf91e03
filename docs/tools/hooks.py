"""Hooks of mkdocs (mkdocs.yml): pages that are generated, and links to files outside docs/.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages; keys, commands and names of the Python package are written
from the code; and each file or folder outside docs/ that a page links to gets a page that shows it. So the built pages
need no repository beside them, and a link to a file that is not there fails the build.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

CHECKOUT = Path(__file__).resolve().parents[2]
FROM_ROOT = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages made of files that lie beside docs/."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"(```.*?```)", re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    pages = {page: _moved((CHECKOUT / file).read_text(), page) for page, file in FROM_ROOT.items()}
    pages |= _reference()
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    own = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    for target in sorted({target for page, text in own for target in _outside(page, text)}):
        files.append(File.generated(config, _shown_at(target), content=_page_of(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files outside docs/ into links to the pages that show them."""
    here = page.file.src_uri

    def changed(match: re.Match[str]) -> str:
        target = _target(here, match[1])
        if not _is_outside(target) or not (CHECKOUT / target).exists():
            return match[0]
        return posixpath.relpath(_shown_at(target), posixpath.dirname(here))

    return _in_prose(markdown, changed)


def _in_prose(text: str, change: Any) -> str:
    """Returns the text with its links changed, but not those within blocks of code."""
    parts = CODE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(change, part) for part in parts)


def _moved(text: str, page: str) -> str:
    """Returns a file of the top folder with its links as they read from docs/."""

    def changed(match: re.Match[str]) -> str:
        file, anchor = match[1], match[2] or ""
        moved = next((new for new, old in FROM_ROOT.items() if old == file), None)
        return (moved or (file.removeprefix("docs/") if file.startswith("docs/") else f"../{file}")) + anchor

    return _in_prose(text, changed)


def _target(page: str, link: str) -> str:
    """Returns the path, from the top folder, of what a page of docs/ links to."""
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))


def _is_outside(target: str) -> bool:
    """Whether mkdocs cannot link to the file itself: it lies outside docs/, or is a folder or a program in it."""
    return not target.startswith("docs/") or target.endswith((".py", ".yaml")) or (CHECKOUT / target).is_dir()


def _outside(page: str, text: str) -> Iterator[str]:
    prose = "".join(part for part in CODE.split(text) if not part.startswith("```"))
    for match in LINK.finditer(prose):
        target = _target(page, match[1])
        if _is_outside(target) and (CHECKOUT / target).exists():
            yield target


def _shown_at(target: str) -> str:
    return f"source/{target}.md"


def _page_of(target: str) -> str:
    """Returns a page that shows a file, or the first sentence of each file of a folder."""
    path = CHECKOUT / target
    if path.is_dir():
        rows = [f"| `{file.relative_to(path)}` | {_first_line(file)} |" for file in sorted(path.rglob("*.py"))]
        rows += [f"| `{file.relative_to(path)}` | {_first_line(file)} |" for file in sorted(path.rglob("*.yaml"))]
        return "\n".join([f"# {target}/", "", "| file | |", "|---|---|", *rows, ""])
    language = {".py": "python", ".yaml": "yaml", ".sh": "bash"}.get(path.suffix, "text")
    return f"# {target}\n\n````{language}\n{path.read_text()}\n````\n"


def _first_line(file: Path) -> str:
    line = next(iter(file.read_text().splitlines()), "")
    return line.strip('"# ').replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def _reference() -> dict[str, str]:
    """Returns the pages that are written from the code. Raises PluginError if a name or a key has no docstring."""
    sys.path[:0] = [str(CHECKOUT), str(Path(__file__).parent)]  # mkdocs restores the path that it had before this file
    import keys
    import names

    sections = keys.sections(keys.files())
    bare = [f"key {s.key}.{name}" for s in sections for name, _, _, meaning in s.rows if not meaning]
    bare += [f"section {s.key}" for s in sections if not s.model.__doc__]
    bare += names.undocumented()
    if bare:
        raise PluginError(f"no docstring: {', '.join(bare)}")
    head = "# Every key\n\nThe keys of each section of the YAML files, as the program checks them. "
    head += "[Configuration](../configuration.md) explains the sections and how values are written.\n\n"
    return {
        "reference/keys.md": head + keys.markdown(sections),
        "reference/commands.md": names.commands(),
        "reference/python.md": names.python(),
    }
