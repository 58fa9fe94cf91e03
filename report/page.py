"""Writes the report of runs: one HTML page that asks nothing of any network and needs no JavaScript.

The same runs give the same bytes: nothing of the page depends on the time or the machine on which it is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from engine.errors import ConfigError
from engine.evaluation import wilson
from engine.files import as_path, write_atomically
from engine.quantities import amount, quantity
from report.blocks import MOST_ROWS, Block, Listing, Mood, Section, Slider, Table, Text, Tile
from report.colours import variables
from report.deployment_sections import (
    class_blocks,
    export_blocks,
    int8_blocks,
    stage_blocks,
    timing_blocks,
    unfinished,
)
from report.facts import Facts, collect
from report.network_section import network_blocks, table_blocks
from report.retraining_section import retraining_blocks
from report.search_sections import (
    beside_blocks,
    fronts_blocks,
    limits_blocks,
    probabilities_blocks,
    search_blocks,
    sweep_blocks,
)


def report(
    run: Path | str,
    other: Path | str | None = None,
    *,
    exported: Path | str | None = None,
    out: Path | str = "report.html",
    allow_modules: Collection[str] = (),
) -> Path:
    """Writes the report of a run as one HTML file, and returns its path.

    run: the folder of a search, of a retraining, of a whole job, of a quick start or of a sweep. other: a retraining
    beside its search,
    or the reverse; a retraining's search is found by itself if its architecture.json came from there. exported: the
    folder of `export`'s files of this network; None takes that of a job of several stages. out: the file, which ends in
    .html. allow_modules: the user's modules that the runs' architecture may import. Raises ConfigError
    and WriteError.
    """
    path = as_path(out, "out")
    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out {path}", f"ends in {path.suffix or 'nothing'!r}", "a file that ends in .html")
    files = None if exported is None else as_path(exported, "exported")
    facts = collect([run, *([] if other is None else [other])], path, allow_modules, files)
    write_atomically(path, page_of(facts))
    return path


def page_of(facts: Facts) -> str:
    """Returns the text of the page."""
    import jinja2
    from markupsafe import Markup

    texts = files("report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string((texts / "page.html.j2").read_text(encoding="utf-8"))
    sections = [section for section in _sections(facts) if section.blocks]
    style = variables() + (texts / "page.css").read_text(encoding="utf-8") + _frames_style(sections)
    return template.render(
        title=facts.title, lead=_lead(facts), tiles=_tiles(facts), sections=sections, style=Markup(style.strip())
    )


def _frames_style(sections: Sequence[Section]) -> str:
    """Returns the rules that show the picture of a slider whose radio button is chosen, and hide the others."""
    rules = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Slider) and len(block.frames) > 1:
                rules.append(f"#{section.id} .frames>div{{display:none}}")
                chosen = (f"#{section.id}-{i}:checked~.frames>.frame-{i}" for i in range(len(block.frames)))
                rules.append(f"{','.join(chosen)}{{display:block}}")
    return "\n".join(rules)


def _sections(facts: Facts) -> Iterator[Section]:
    yield Section("limits", "Limits, and how they are met", tuple(limits_blocks(facts)))
    yield Section("network", "The network", tuple(network_blocks(facts)))
    yield Section("random", "Beside random networks of equal latency", tuple(beside_blocks(facts)))
    yield Section("probabilities", "Path probabilities over time", tuple(probabilities_blocks(facts.snapshots, facts)))
    yield Section("search", "The search", tuple(search_blocks(facts)))
    yield Section("front", "Accuracy over cost", tuple(fronts_blocks(facts.fronts)))
    yield Section("sweep", "Searches", tuple(sweep_blocks(facts.sweep)))
    yield Section("retraining", "The retraining", (*retraining_blocks(facts), *class_blocks(facts.deployed.classes)))
    yield Section("table", "The latency table", tuple(block for used in facts.tables for block in table_blocks(used)))
    yield Section("exports", "Files for runtimes", tuple(export_blocks(facts.deployed.exported)))
    yield Section("int8", "Quantised to int8", tuple(int8_blocks(facts.deployed.exported)))
    yield Section("timings", "Timings of the files", tuple(timing_blocks(facts.deployed.timed)))
    yield Section("stages", "The stages of the job", tuple(stage_blocks(facts.deployed.stages)))
    yield Section("settings", "Every setting", tuple(Listing(*pair) for pair in facts.settings.items()))
    yield Section("files", "Files", tuple(_files(facts)))


def _lead(facts: Facts) -> list[Text]:
    """Returns the first sentences: what was found, and whether it meets what was asked."""
    runs, lines = facts.runs, []
    if runs.search is not None:
        result = runs.search.result
        if result is None:
            lines.append(Text("The search has not ended: this page shows what there is so far.", "unsure"))
        else:
            limits = ", ".join(f"{limit.name} {limit.asked}" for limit in result.limits)
            words: Mapping[bool | None, tuple[str, Mood]] = {
                True: ("The network meets what was asked", "good"),
                False: ("The network does NOT meet what was asked", "bad"),
                None: ("Whether the network meets what was asked is not settled, since other work disturbed its timing",
                       "unsure"),
            }  # fmt: skip
            text, mood = words[result.met]
            lines.append(Text(f"{text}: {limits}." if limits else f"{text}.", mood))
    if runs.retraining is not None and runs.retraining.test is None:
        lines.append(Text("The retraining has not ended: the accuracy on the test set is not known yet.", "unsure"))
    if stage := unfinished(facts.deployed):
        lines.append(Text(f"The job has not ended: its stage {stage} is not done.", "unsure"))
    return lines


def _tiles(facts: Facts) -> list[Tile]:
    """Returns the few figures that one looks for first."""
    tiles = []
    search, retraining = facts.runs.search, facts.runs.retraining
    result = search.result if search else None
    if retraining is not None and retraining.test is not None:
        test = retraining.test
        low, high = wilson(test.top1, test.images)
        more = f"95 % interval {low:.2f} to {high:.2f}, {test.images} test images"
        tiles.append(
            Tile(
                "top-1, trained from scratch" if retraining.from_scratch else "top-1, retrained",
                f"{test.top1:.2f} %",
                more,
            )
        )
    elif result is not None:
        more = f"with the supernet's weights, {result.images} validation images"
        tiles.append(Tile("top-1", f"{result.top1:.2f} %", more))
    for limit in result.limits if result else ():
        if limit.measured:
            more = f"predicted {quantity(limit.predicted, limit.unit)}, asked {limit.asked}"
            tiles.append(Tile(f"{limit.name}, measured", f"{limit.measured.median_ms:.4g} ms", more))
        else:
            predicted = quantity(limit.predicted, limit.unit)
            tiles.append(Tile(f"{limit.name}, predicted", predicted, f"asked {limit.asked}"))
    if facts.design is not None:
        c, design = facts.design.complexity, facts.design
        tiles.append(Tile("parameters", amount(c.params, 4)))
        channels = "1 channel" if design.input_channels == 1 else f"{design.input_channels} channels"
        tiles.append(Tile("MACs", amount(c.macs, 4), f"{design.input_size} x {design.input_size} px, {channels}"))
    return tiles


def _files(facts: Facts) -> Iterator[Block]:
    if not facts.files:
        return
    rows = [(file.path, f"{file.size:,}", file.sha256) for file in facts.files[:MOST_ROWS]]
    left = len(facts.files) - len(rows)
    caption = f"SHA-256 of {len(facts.files)} files" + (f", the first {MOST_ROWS}" if left else "")
    yield Table(caption, ("file", "bytes", "SHA-256"), rows, folded=True)
