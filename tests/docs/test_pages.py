"""What the pages link to is there, the code that they quote is that of the examples, and their commands exist."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine.arguments import parser_of
from engine.config import load_config
from proxyless_nas.commands import COMMANDS

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
QUOTED = re.compile(r"```(?:python|yaml)\n# (?P<file>(?:docs/examples|configs)/\S+)\n(?P<code>.*?)```", re.DOTALL)
GENERATED = {f"docs/reference/{name}.md" for name in ("keys", "commands", "python")}
"""Pages that docs/tools/hooks.py writes when the documents are built."""
COMMAND = re.compile(r"(?:^\$ |^|`|-m )proxyless[-_]nas (?P<words>[^`]*?)(?:`|$)", re.MULTILINE)
FOLDERS = (
    "benchmarks",
    "configs",
    "docs",
    "engine",
    "export",
    "latency",
    "proxyless_nas",
    "retrain",
    "scripts",
    "search",
    "supernet",
    "tests",
)
NAMED = re.compile(
    rf"(?<![\w/.~-])(?P<file>(?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:ipynb|json|md|py|yaml))(?:: (?P<name>\w+)`)?"
)
"""A file of the checkout that a page names, and a function or class in it, as in `search/state.py: SearchState`."""
QUOTES = [(page, m["file"], m["code"]) for page in PAGES for m in QUOTED.finditer(page.read_text())]


def name_of(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


def prose_of(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors_of(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them: lower case, spaces to hyphens, other punctuation
    dropped."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)) if "://" not in link]
    absent = []
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if name_of(target.resolve()) in GENERATED and not anchor:
            continue
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            absent.append(link)
    assert absent == []


@pytest.mark.parametrize("page", [*PAGES, CHECKOUT / "CHANGELOG.md"], ids=name_of)
def test_files_that_a_page_names_exist_and_hold_the_functions_it_names(page):
    absent = []
    for match in NAMED.finditer(page.read_text()):
        file, name = CHECKOUT / match["file"], match["name"]
        if match["file"] in GENERATED:
            continue
        if not file.exists() or (name and not re.search(rf"^(?:def|class) {name}\b", file.read_text(), re.MULTILINE)):
            absent.append(match[0])
    assert absent == []


def test_every_page_on_extending_is_in_the_index_and_quotes_its_example():
    folder = CHECKOUT / "docs" / "extending"
    index = (folder / "README.md").read_text()
    assert all(f"]({page.name})" in index for page in folder.glob("*.md") if page.name != "README.md")
    quoting = {page.name for page, _, _ in QUOTES}
    assert {"candidate.md", "space.md", "dataset.md", "python.md"} <= quoting


def test_every_page_is_in_the_navigation():
    """mkdocs checks the same, where it is installed."""
    text = (CHECKOUT / "mkdocs.yml").read_text()

    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from leaves(part)

    docs = CHECKOUT / "docs"
    listed = set(leaves(yaml.safe_load(text)["nav"]))
    written = {str(page.relative_to(docs)) for page in docs.rglob("*.md")}
    moved = {"index.md", "contributing.md", "changelog.md"}
    assert listed == written | moved | {name.removeprefix("docs/") for name in GENERATED}


def commands_on(page: Path) -> list[str]:
    """Returns the words after `proxyless-nas` of each command on a page, with continued lines as one."""
    text = page.read_text().replace("\\\n", " ")
    return [" ".join(match["words"].split()) for match in COMMAND.finditer(text)]


def parser_for(words: list[str]) -> tuple[argparse.ArgumentParser | None, list[str]]:
    """Returns the parser of the command that the words begin with, and the words after it; None for a group alone."""
    found: object = COMMANDS
    while isinstance(found, dict) and words:
        assert words[0] in found, f"{words[0]}: no such command"
        found, words = found[words[0]], words[1:]
    if isinstance(found, dict):
        return None, words
    parser = parser_of(found.text, "proxyless-nas")  # type: ignore[attr-defined]
    found.arguments(parser)  # type: ignore[attr-defined]
    return parser, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page):
    for command in commands_on(page):
        words = shlex.split(command, comments=True)
        if not words or words[0] in ("COMMAND", "..."):
            continue
        parser, rest = parser_for(words)
        options = [word.partition("=")[0] for word in rest if word.startswith("--")]
        if parser is None:
            assert not options, command
        else:
            assert set(options) <= set(parser._option_string_actions), command


def test_commands_are_found_on_the_pages():
    assert sum(len(commands_on(page)) for page in PAGES) > 50
    assert "search flowers.yaml --out runs/flowers" in commands_on(CHECKOUT / "docs" / "extending" / "dataset.md")


@pytest.mark.parametrize(("page", "file", "code"), QUOTES, ids=[f"{p.name}-{i}" for i, (p, _, _) in enumerate(QUOTES)])
def test_code_that_a_page_quotes_is_in_the_file_that_it_names(page, file, code):
    assert code in (CHECKOUT / file).read_text()


@pytest.mark.parametrize("path", sorted((CHECKOUT / "docs" / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_example_opens_with_commands_that_name_it(path):
    head = path.read_text().partition("extends:")[0]
    assert head.startswith("# What: ")
    table = load_config(path)["limits"][0]["table"]
    assert f"#   proxyless-nas measure {name_of(path)} --out {table} --verify 40\n" in head
    assert f"#   proxyless-nas search {name_of(path)} --out runs/{path.stem}\n" in head
