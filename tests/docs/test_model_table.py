"""The table of published networks in README.md and docs/published.md is what its program makes of measured figures."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from proxyless_nas.comparison.compare import compare
from proxyless_nas.comparison.networks import networks_of
from proxyless_nas.comparison.result import Accuracy, Column, Latency, Row
from proxyless_nas.comparison.table import Comparison
from supernet.summary import with_unit

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_table", CHECKOUT / "docs" / "tools" / "model_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made_up() -> Comparison:
    """Figures of a test, not of a device."""
    columns = [
        Column(name="published_gpu", kind="published", text="V100"),
        Column(name="cpu", kind="measured", text="this CPU"),
    ]
    published = Accuracy(top1=75.29, data="ImageNet validation", published=True, source="its authors")
    rows = [
        Row(
            name=name, params=4_361_648, macs=439_243_864, channels=3, input_size=224, classes=1000,
            accuracies=(published,),
            latencies={"published_gpu": Latency(ms=gpu), "cpu": Latency(ms=40.123, noise_ms=0.2, steady=steady)},
        )
        for name, gpu, steady in (("a", 7.4, True), ("torchvision:b", None, False))
    ]  # fmt: skip
    made_on = {"device": "CPU, 2 cores", "torch": "2.14.1+cpu", "python": "3.11.7"}
    return Comparison(date="2026-01-31", made_on=made_on, columns=tuple(columns), rows=tuple(rows))


def test_the_compact_table_says_which_figures_are_published(tool, made_up):
    head, _, first, second = tool.compact_table(made_up).splitlines()
    assert head == "| network | params | MACs | top-1 %, published | V100, published [ms] | PyTorch, here [ms] |"
    assert first == "| a | 4.36 M | 439 M | 75.3 | 7.4 | 40.1 |"
    assert second == "| b | 4.36 M | 439 M | 75.3 |  | 40.1 ~ |"
    text = tool.block(made_up, compact=True)
    assert "CPU, 2 cores, torch 2.14.1, 2026-01-31" in text
    assert "`~`: disturbed by other work." in text


def test_the_figures_alone_give_the_pages_and_the_picture(tool, made_up, tmp_path, monkeypatch):
    """A second run changes nothing; the text around the markers stays."""
    for name in tool.PAGES:
        page = tmp_path / name
        page.parent.mkdir(exist_ok=True)
        page.write_text((CHECKOUT / name).read_text())
    figures = tmp_path / "docs" / "images" / "models.json"
    figures.parent.mkdir()
    given = tmp_path / "given.json"
    given.write_text(made_up.to_json())
    monkeypatch.setattr(tool, "CHECKOUT", tmp_path)
    monkeypatch.setattr(tool, "FIGURES", figures)
    monkeypatch.setattr("sys.argv", ["model_table.py", str(given)])
    tool.main()
    once = {name: (tmp_path / name).read_text() for name in tool.PAGES}
    monkeypatch.setattr("sys.argv", ["model_table.py"])
    tool.main()
    assert {name: (tmp_path / name).read_text() for name in tool.PAGES} == once
    for name, compact in tool.PAGES.items():
        assert tool.block(made_up, compact) in once[name]
        around = (CHECKOUT / name).read_text().split(tool.BEGIN)[0]
        assert once[name].startswith(around)
    assert figures.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="the page lacks"):
        tool.rewritten("nothing", "new")


def test_the_command_names_the_networks_and_compares_them(tool):
    """The command runs without its timings, and gives the rows and the published columns of the table."""
    words = shlex.split(tool.COMMAND)
    assert tuple(words[2 : words.index("--devices")]) == tool.NETWORKS
    comparison = compare(tool.NETWORKS)
    assert {column.name for column in comparison.columns} < set(tool.HEADINGS)
    assert all(row.accuracies for row in comparison.rows)


def test_the_tables_on_the_pages_are_made_of_the_measured_figures_and_sizes_are_those_of_the_code(tool):
    if not tool.FIGURES.exists():
        pytest.skip("docs/images/models.json: not measured yet")
    comparison = Comparison.from_json(tool.FIGURES.read_text(), str(tool.FIGURES))
    for name, compact in tool.PAGES.items():
        assert tool.block(comparison, compact) in (CHECKOUT / name).read_text(), f"{name}: run the program again"
    assert tuple(row.name for row in comparison.rows) == tool.NETWORKS
    assert [column.name for column in comparison.columns] == list(tool.HEADINGS)
    readme = (CHECKOUT / "README.md").read_text()
    for row, network in zip(comparison.rows, networks_of(tool.NETWORKS), strict=True):
        c = network.complexity
        assert (row.params, row.macs, row.accuracies) == (c.params, c.macs, network.accuracies)
        own = row.name.removeprefix("torchvision:")
        assert re.search(rf"^\| {own} \| {with_unit(c.params)} \| {with_unit(c.macs)} \|", readme, re.MULTILINE)
