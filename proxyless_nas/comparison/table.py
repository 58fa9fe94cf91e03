"""Holds a comparison, and writes it as text for a terminal, as Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.table import Table
from rich.text import Text

from engine.config import Section, validate
from engine.errors import ConfigError
from engine.files import parsed_json
from proxyless_nas.comparison.judge import Front, Verdict, verdicts
from proxyless_nas.comparison.result import Accuracy, Column, Latency, Row
from supernet.summary import with_unit

if TYPE_CHECKING:
    from proxyless_nas.views import Shown

FORMAT: Literal["proxylessnas/comparison@1"] = "proxylessnas/comparison@1"
WIDE = 1000
"""The width in characters at which no line of a table is broken."""
DISTURBED = "~"
"""The sign of a timing that other work disturbed."""


class Comparison(Section):
    """Networks beside each other on devices: size, accuracy and latency of each, and which is best on which device.

    `print` shows it as a table. `rows` and `columns` have the figures, `matrix` the latencies, and `verdicts` which
    networks are best.
    """

    format: Literal["proxylessnas/comparison@1"] = FORMAT
    date: str
    made_on: dict[str, str]
    """This machine and the versions of torch and Python."""
    columns: tuple[Column, ...]
    """A column of latencies for each device: published, predicted, measured."""
    rows: tuple[Row, ...]
    """The networks."""
    at: dict[str, float] = Field(default_factory=dict)
    """The latency in ms for which the most accurate network was asked, by the names of columns."""

    @property
    def matrix(self) -> np.ndarray:
        """The latencies in ms, (networks, columns) float64; NaN where there is none."""
        cells = [[self.latency(row, column).ms for column in self.columns] for row in self.rows]
        return np.array(cells, dtype=float).reshape(len(self.rows), len(self.columns))

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Which networks are the fastest, the most accurate within a latency, and Pareto-efficient in each column."""
        return verdicts(self.columns, self.rows, self.at)

    def latency(self, row: Row, column: Column) -> Latency:
        """Returns the cell of a network in a column."""
        return row.latencies.get(column.name, Latency())

    def __str__(self) -> str:
        """Returns what `print` shows: the table, what its columns mean, and the best networks."""
        console = Console(file=io.StringIO(), width=WIDE, color_system=None)
        console.print(self.table())
        lines = "\n".join(self.notes())
        return f"{console.file.getvalue().rstrip()}\n{lines}"  # type: ignore[attr-defined]  # it is a StringIO

    def table(self) -> Table:
        """Returns the table for a terminal; the fastest network of each column is bold and has a star."""
        grid = _Grid(self, "* {}".format, lambda number: f"[{number}]")
        table = Table()
        for i, heading in enumerate(grid.headings):
            table.add_column(Text(heading), justify="left" if i == 0 else "right", overflow="fold")
        for cells in grid.cells:
            table.add_row(*(Text(cell, style="bold" if cell.startswith("* ") else "") for cell in cells))
        return table

    def notes(self) -> list[str]:
        """Returns lines for below the table: the columns, the reasons of empty cells, and the best networks."""
        reasons = _Grid(self, str, str).reasons
        lines = [f"{column.name} ({column.kind}): {column.text}" for column in self.columns]
        lines += [f"[{number}] {reason}" for number, reason in enumerate(reasons, 1)]
        lines += self._signs()
        return lines + [line for verdict in self.verdicts for line in _in_words(verdict, self._several_tasks)]

    @property
    def _several_tasks(self) -> bool:
        return len({row.classes for row in self.rows}) > 1

    def _signs(self) -> list[str]:
        disturbed = any(not latency.steady for row in self.rows for latency in row.latencies.values())
        return [f"{DISTURBED} other work disturbed the timing, so it decides nothing"] if disturbed else []

    def to_markdown(self) -> str:
        """Returns the table in Markdown, with the fastest network of each column in bold, and the notes as a list."""
        grid = _Grid(self, "**{}**".format, lambda number: f"<sup>{number}</sup>")
        rows = [[cell.replace("|", "\\|") for cell in cells] for cells in grid.cells]
        aligned = [":--", *["--:"] * (len(grid.headings) - 1)]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in (grid.headings, aligned, *rows))
        notes = [f"- `{column.name}` ({column.kind}): {column.text}" for column in self.columns]
        notes += [f"- <sup>{number}</sup> {reason}" for number, reason in enumerate(grid.reasons, 1)]
        notes += [f"- {line}" for line in self._signs()]
        best = [f"- {line}" for v in self.verdicts for line in _in_words(v, self._several_tasks, "`")]
        return "\n\n".join("\n".join(part) for part in ([table], notes, best) if part) + "\n"

    def to_csv(self) -> str:
        """Returns the figures as CSV: a line for each network, exact numbers, empty where there is none. An accuracy of
        one network on several sets of images gives further columns."""
        published = max((len(_accuracies(row, True)) for row in self.rows), default=0)
        measured = max((len(_accuracies(row, False)) for row in self.rows), default=0)
        head = ["network", "params", "macs", "channels", "input_size", "classes"]
        kinds = [(True, i) for i in range(published)] + [(False, i) for i in range(measured)]
        for is_published, i in kinds:
            words = ("published" if is_published else "measured") + (f"_{i + 1}" if i else "")
            head += [f"top1_{words}", f"data_{words}"]
            head += [] if is_published else [f"images_{words}", f"low_{words}", f"high_{words}"]
        for column in self.columns:
            name = f"{column.kind}_{column.short}"
            head += [f"{name}_ms"] + ([f"{name}_noise_ms", f"{name}_steady"] if column.kind == "measured" else [])
        lines = [head, *(self._csv_line(row, kinds) for row in self.rows)]
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(lines)
        return out.getvalue()

    def _csv_line(self, row: Row, kinds: Sequence[tuple[bool, int]]) -> list[Any]:
        line: list[Any] = [row.name, row.params, row.macs, row.channels, row.input_size, row.classes]
        for is_published, i in kinds:
            accuracy = dict(enumerate(_accuracies(row, is_published))).get(i)
            line += ["", ""] if accuracy is None else [accuracy.top1, accuracy.data]
            if not is_published:
                images = None if accuracy is None else accuracy.images
                line += ["" if images is None else images, *((accuracy and accuracy.interval) or ("", ""))]
        for column in self.columns:
            latency = self.latency(row, column)
            line += ["" if latency.ms is None else latency.ms]
            if column.kind == "measured":
                noise = "" if latency.noise_ms is None else latency.noise_ms
                line += [noise, "" if latency.ms is None else str(latency.steady).lower()]
        return line

    def to_json(self) -> str:
        """Returns everything as JSON, which `from_json` reads, with the verdicts."""
        record = self.model_dump(mode="json") | {"verdicts": [asdict(verdict) for verdict in self.verdicts]}
        return json.dumps(record, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the comparison") -> Comparison:
        """Returns the comparison that a JSON text holds. where: its file, for errors. Raises ConfigError."""
        content = parsed_json(text, where)
        if not isinstance(content, dict):
            raise ConfigError(where, f"got {type(content).__name__}", "the JSON of a comparison")
        return validate(cls, cls.stored(content, where), where)

    @staticmethod
    def stored(content: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Returns the content of a JSON without its verdicts, which follow from the rest. Raises ConfigError if another
        version wrote it."""
        if content.get("format") != FORMAT:
            found = f"got {str(content.get('format'))[:80]!r}"
            raise ConfigError(f"{where}: format", found, repr(FORMAT), "make the comparison again")
        return {key: value for key, value in content.items() if key != "verdicts"}

    def picture(self) -> Shown:
        """Returns the picture: the matrix of latencies, and accuracy over latency for each device where both are known.
        It shows itself in a notebook, and `save(path)` writes it as a PNG."""
        from proxyless_nas.comparison.picture import drawn
        from proxyless_nas.views import Shown

        return Shown(str(self), drawn(self))

    def _repr_markdown_(self) -> str:
        """Returns what a notebook shows."""
        return self.to_markdown()


class _Grid:
    """The cells of a comparison as texts. emphasised(text): how the fastest is written. marked(number): how a cell
    refers to a reason."""

    def __init__(self, comparison: Comparison, emphasised: Callable[[str], str], marked: Callable[[int], str]):
        self.reasons: list[str] = []
        self._marked = marked
        every = [a for row in comparison.rows for a in row.accuracies]
        kinds = [published for published in (True, False) if any(a.published is published for a in every)]
        asked = any(row.no_accuracy for row in comparison.rows)
        kinds += [False] if asked and False not in kinds else []
        self.headings = ["network", "params", "MACs"]
        self.headings += [f"top-1 %, {'published' if published else 'measured'}" for published in kinds]
        self.headings += [column.heading for column in comparison.columns]
        fastest = {(v.column, name) for v in comparison.verdicts if v.steady for name in v.fastest}
        self.cells = []
        for row in comparison.rows:
            cells = [row.name, with_unit(row.params), with_unit(row.macs)]
            cells += [self._accuracy(row, published) for published in kinds]
            for column in comparison.columns:
                text = self._latency(comparison.latency(row, column), column)
                cells.append(emphasised(text) if (column.name, row.name) in fastest else text)
            self.cells.append(cells)

    def _accuracy(self, row: Row, published: bool) -> str:
        figures = ", ".join(self._figure(accuracy) for accuracy in _accuracies(row, published))
        return (figures or "-") + self._mark("" if published else row.no_accuracy)

    def _figure(self, accuracy: Accuracy) -> str:
        if accuracy.published:
            return f"{accuracy.top1:.1f}{self._mark(f'{accuracy.data}, by {accuracy.source}')}"
        interval = accuracy.interval
        within = "" if interval is None else f" ({interval[0]:.1f} to {interval[1]:.1f})"
        return f"{accuracy.top1:.2f}{within}{self._mark(accuracy.basis)}"

    def _latency(self, latency: Latency, column: Column) -> str:
        if latency.ms is None:
            return "-" + self._mark(latency.reason)
        if column.kind == "published":  # as it is stated
            return f"{latency.ms:g}"
        noise = "" if latency.noise_ms is None else f" ± {latency.noise_ms:.2g}"
        return f"{latency.ms:.4g}{noise}{'' if latency.steady else f' {DISTURBED}'}"

    def _mark(self, reason: str) -> str:
        """Returns the sign for a reason, which is numbered when it first occurs; nothing if there is none."""
        if not reason:
            return ""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f" {self._marked(self.reasons.index(reason) + 1)}"


def _accuracies(row: Row, published: bool) -> list[Accuracy]:
    return [accuracy for accuracy in row.accuracies if accuracy.published is published]


def _in_words(verdict: Verdict, several_tasks: bool, quote: str = "") -> list[str]:
    """Returns a verdict as lines. several_tasks: whether the networks have different numbers of classes. quote: the
    sign around names."""
    where = verdict.column + (f", {verdict.classes} classes" if several_tasks else "")
    first, *others = (f"{quote}{name}{quote}" for name in verdict.fastest)
    same = f", not told apart from {', '.join(others)}" if others else ""
    busy = "" if verdict.steady else "; not settled, since other work disturbed the timings"
    lines = [f"{where}: fastest {first}{same}{busy}"]
    return lines + [f"{where}: {line}" for front in verdict.fronts for line in _front_in_words(front, quote)]


def _front_in_words(front: Front, quote: str) -> list[str]:
    names = ", ".join(f"{quote}{name}{quote}" for name in front.efficient)
    lines = [f"Pareto-efficient ({front.basis}): {names}"]
    if front.at is not None:
        best = ", ".join(f"{quote}{name}{quote}" for name in front.best) or "none"
        lines = [f"most accurate at or below {front.at:g} ms ({front.basis}): {best}", *lines]
    return lines
