"""Every link of the pages leads somewhere, and the code that they quote is that of the examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.config import load_config

CHECKOUT = Path(__file__).resolve().parents[2]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
QUOTED = re.compile(r"```(?:python|yaml)\n# (?P<file>(?:docs/examples|configs)/\S+)\n(?P<code>.*?)```", re.DOTALL)
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
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            absent.append(link)
    assert absent == []


def test_every_page_on_extending_is_in_the_index_and_quotes_its_example():
    folder = CHECKOUT / "docs" / "extending"
    index = (folder / "README.md").read_text()
    assert all(f"]({page.name})" in index for page in folder.glob("*.md") if page.name != "README.md")
    quoting = {page.name for page, _, _ in QUOTES}
    assert {"candidate.md", "space.md", "dataset.md", "python.md"} <= quoting


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
