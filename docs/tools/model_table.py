"""Writes the table of published networks into README.md and docs/published.md:  python docs/tools/model_table.py [JSON]

JSON is that of the command in COMMAND; its figures are copied to docs/images/models.json, and the picture is drawn
beside it. Without JSON the tables are written anew from that file.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from proxyless_nas.comparison.result import Column, Row
from proxyless_nas.comparison.table import Comparison
from supernet.summary import with_unit

CHECKOUT = Path(__file__).resolve().parents[2]
FIGURES = CHECKOUT / "docs" / "images" / "models.json"
NETWORKS = (
    "proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14", "mobilenet_v2",
    "torchvision:mobilenet_v3_large", "torchvision:resnet34",
)  # fmt: skip
COMMAND = f"proxyless-nas compare {' '.join(NETWORKS)} --devices cpu,onnxruntime --json models.json"
BEGIN, END = "<!-- made by docs/tools/model_table.py -->", "<!-- end of what docs/tools/model_table.py makes -->"
PAGES = {"README.md": True, "docs/published.md": False}
"""The pages with the table, and whether it is the compact one."""
HEADINGS = {
    "published_gpu": "V100, published",
    "published_cpu": "Xeon E5-2640 v4, published",
    "published_mobile": "Pixel 1, published",
    "cpu": "PyTorch, here",
    "onnxruntime": "ONNX Runtime, here",
}
"""The headings of the compact table's latencies."""


def block(comparison: Comparison, compact: bool) -> str:
    """Returns the table with a sentence on how it was made. compact: without notes."""
    device = f"{comparison.made_on['device']}, torch {comparison.made_on['torch'].partition('+')[0]}, {comparison.date}"
    if not compact:
        made = f"Made by `{COMMAND}` ({device}).\n\n![Latency of each network on each device](images/models.png)"
        return f"## Beside each other\n\n{comparison.to_markdown()}\n{made}\n"
    disturbed = any(not latency.steady for row in comparison.rows for latency in row.latencies.values())
    return "\n".join(
        [
            "## The published networks",
            "",
            compact_table(comparison),
            "",
            f"Here: one thread, batch 1, {device}. Published: the ProxylessNAS paper's latencies, at batch 8 on the",
            f"V100. {'`~`: disturbed by other work. ' if disturbed else ''}"
            "[Notes, and how the table is made](docs/published.md#beside-each-other).",
            "",
        ]
    )


def compact_table(comparison: Comparison) -> str:
    """Returns a table of size, published accuracy and latencies in Markdown."""
    columns = [column for name in HEADINGS for column in comparison.columns if column.name == name]
    head = ["network", "params", "MACs", "top-1 %, published", *(f"{HEADINGS[c.name]} [ms]" for c in columns)]
    lines = [head, [":--", *["--:"] * (len(head) - 1)]]
    lines += [_line(comparison, row, columns) for row in comparison.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(comparison: Comparison, row: Row, columns: list[Column]) -> list[str]:
    published = next((f"{a.top1:.1f}" for a in row.accuracies if a.published), "")
    cells = [row.name.removeprefix("torchvision:"), with_unit(row.params), with_unit(row.macs), published]
    for column in columns:
        latency = comparison.latency(row, column)
        text = "" if latency.ms is None else f"{latency.ms:g}" if column.kind == "published" else f"{latency.ms:.3g}"
        cells.append(text + ("" if latency.steady else " ~"))
    return cells


def rewritten(page: str, new: str) -> str:
    """Returns a page's text with `new` between its markers. Raises ValueError if it lacks them."""
    if not (BEGIN in page and END in page):
        raise ValueError(f"the page lacks the lines {BEGIN} and {END}")
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: f"{BEGIN}\n\n{new}\n{END}", page, flags=re.DOTALL)


def main() -> None:
    """Copies the figures, if a file is given, and writes the tables and the picture."""
    if len(sys.argv) > 1:
        shutil.copyfile(sys.argv[1], FIGURES)
    comparison = Comparison.from_json(FIGURES.read_text(), str(FIGURES))
    for name, compact in PAGES.items():
        page = CHECKOUT / name
        page.write_text(rewritten(page.read_text(), block(comparison, compact)))
    comparison.picture().save(FIGURES.with_suffix(".png"))


if __name__ == "__main__":
    main()
