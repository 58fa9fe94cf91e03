"""Shows a network, a run or a family of networks: as a table, and as a picture in a notebook or a file."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from engine.config import load_config
from engine.errors import Action, ConfigError, UserError, explain
from engine.files import as_path, as_texts, write_atomically
from engine.quantities import quantity
from engine.runs.checkpoints import Checkpoints
from latency.table import LatencyTable
from published.designs import design_of
from retrain.weights import load_chosen
from search.curves import layer_costs
from search.limits.limit import AdditiveLimit, additive
from search.loop import SearchResult
from search.many.family import Family
from search.many.pareto import Panel, Point, front_figure
from search.opening import resolved_run
from search.picture import probabilities_picture
from search.result import load_result
from supernet.alpha import Alpha
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.design_file import read_design
from supernet.space import Space

LATENCY = "latency [ms]"
"""The heading of a table's column of milliseconds."""


@dataclass(frozen=True)
class Shown:
    """A table, which `print` shows, and a picture, which a notebook shows."""

    text: str
    png: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.text

    def _repr_png_(self) -> bytes:
        """Returns the picture for a notebook."""
        return self.png

    def save(self, path: Path | str) -> None:
        """Writes the picture into a file that ends in .png, atomically. Raises ConfigError for another ending, since
        such a file may be something else, and WriteError if it cannot be written."""
        write_atomically(picture_path(path), self.png)


def picture_path(path: object) -> Path:
    """Returns the path of a picture's file. Raises ConfigError if it does not end in .png."""
    path = as_path(path, "the picture's file")
    if path.suffix.lower() != ".png":
        raise ConfigError(str(path), f"ends in {path.suffix or 'nothing'!r}", "a file that ends in .png")
    return path


def show(
    source: Design | SearchResult | Family | Path | str,
    table: LatencyTable | Path | str | None = None,
    *,
    allow_modules: Collection[str] = (),
) -> Shown:
    """Shows an architecture layer by layer: op, shapes, parameters, MACs, predicted milliseconds, and their sums.

    source: an architecture or a chain, its architecture.json or net.config, the name of a published network, the folder
    of a search or of a retraining, the result of a search, or a family of derived networks. table: a latency table for
    the milliseconds; a search has its own. allow_modules: the user's modules that the files may import. The picture of
    a search's folder is that of its path probabilities with the derived network framed, that of a family its Pareto
    front, and that of an architecture the cost of each layer. Raises ConfigError, and TableError if the table does not
    have a layer.
    """
    if isinstance(source, Family):
        return _family(source)
    if isinstance(source, SearchResult):
        return _network(source.architecture, *layer_costs(source.architecture, additive(source.limits)))
    if isinstance(source, Design):
        return _network(source, *_costs(source, table))
    path, allow_modules = as_path(source, "source"), as_texts(allow_modules, "allow_modules")
    if (path / "config.yaml").exists():
        return _run(path, table, allow_modules)
    if path.is_dir():
        raise ConfigError(str(path), "has no config.yaml", "the folder of a search or of a retraining")
    architecture = design_of(path, allow_modules=allow_modules)
    return _network(architecture, *_costs(architecture, table))


def _run(run: Path, table: LatencyTable | Path | str | None, allow_modules: Collection[str]) -> Shown:
    file = run / "config.yaml"
    stored = load_config(file)
    if "search" not in stored:
        architecture = retrained_design(stored, str(file), allow_modules)
        return _network(architecture, *_costs(architecture, table))
    resolved = resolved_run(run, allow_modules)
    derived = run / "architecture.json"
    if not derived.exists():
        raise ConfigError(
            str(run), "has no architecture.json", "a search that has ended", "derive one first",
            action=Action("derive", (str(run),)),
        )  # fmt: skip
    architecture = load_chosen(derived, allow_modules)
    picture = _probabilities(run, resolved.additive, resolved.space, architecture)
    costs = layer_costs(architecture, resolved.additive) if table is None else _costs(architecture, table)
    shown = _network(architecture, *costs)
    return Shown("\n".join([shown.text, *_figures(run)]), shown.png if picture is None else picture)


def retrained_design(stored: Mapping[str, Any], place: str, allow_modules: Collection[str]) -> Design:
    """Returns the architecture in the config.yaml of a retraining.

    stored: the content of that file, not validated yet. place: the file's name, for errors. allow_modules: the user's
    modules that the architecture may import. Raises ConfigError if there is no architecture, or a damaged one.
    """
    if "architecture" not in stored:
        raise ConfigError(place, "has no architecture", "the folder of a search or of a retraining")
    with explain(f"{place}: architecture"):
        return read_design(json.dumps(stored["architecture"]), allow_modules=allow_modules)


def _figures(run: Path) -> list[str]:
    """Returns the figures of a search's derived network, a line each; none if the search has not ended."""
    result = load_result(run)
    if result is None:
        return []
    lines = [f"top-1 {result.top1:.2f} % on {result.images} validation images, with the supernet's weights"]
    for limit in result.limits:
        measured = f", measured {quantity(limit.measured.median_ms, 'ms')}" if limit.measured else ""
        asked = f"{'below' if limit.at is None else 'at'} {quantity(limit.bound, limit.unit)}"
        lines.append(f"{limit.name}: predicted {quantity(limit.predicted, limit.unit)}{measured}, asked {asked}")
    return lines


def _costs(
    architecture: Design, table: LatencyTable | Path | str | None
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Returns the milliseconds of each layer and those of a whole network, as columns of the architecture's summary."""
    if table is None:
        return {}, {}
    table = table if isinstance(table, LatencyTable) else LatencyTable.load(as_path(table, "table"))
    column = [table.price(layer, place) for place, layer in architecture.places]
    return {LATENCY: column}, {LATENCY: table.constant_ms}


def _network(architecture: Design, columns: Mapping[str, Sequence[float]], constants: Mapping[str, float]) -> Shown:
    heading = next(iter(columns), "MACs")
    costs = columns.get(heading) or [float(layer.complexity.macs) for layer in architecture.layers]
    total = sum(costs) + constants.get(heading, 0.0)
    labels = [f"{place.replace('_', ' ')}  {layer.spec}" for place, layer in architecture.places]
    figure = Figure(figsize=(8, 0.8 + 0.25 * len(labels)), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(str(layer.spec) for layer in architecture.layers))
    axes.barh(labels, costs, color=[f"C{kinds.index(str(layer.spec)) % 10}" for layer in architecture.layers])
    axes.invert_yaxis()
    axes.set(xlabel=f"{heading} of each layer", title=f"{architecture.name}: {total:.4g} in all")
    return Shown(architecture.summary(columns, constants), _png(figure))


def _probabilities(run: Path, limits: Sequence[AdditiveLimit], space: Space, derived: Architecture) -> bytes | None:
    """Returns the picture of the path probabilities in a search's newest checkpoint; None if there is none yet."""
    newest = Checkpoints(run / "checkpoints").newest()
    if newest is None:
        return None
    p = Alpha.of_space(space, newest[1]["search"]["alpha"]).probabilities()
    picture = probabilities_picture(p.numpy(), space, derived.paths, limits)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()


def _family(family: Family) -> Shown:
    if not family.members:
        raise UserError("at", "no bound can be met", remedy="; ".join(map(str, family.refused)))
    limit = additive(family.members[0].limits)[0]
    points, lines = [], []
    for member in family:
        cost = limit.cost_of(member.architecture.paths)
        top1 = member.accuracy.top1 if member.accuracy else None
        scored = "not scored" if top1 is None else f"top-1 {top1:.2f} %{', on the front' if member.on_front else ''}"
        lines.append(f"{member.asked or 'own bound'}: {quantity(cost, limit.unit)}, {scored}  {member.path}")
        if top1 is not None:
            points.append(Point(member.asked or "own bound", cost, top1))
    panel = Panel("derived networks", f"predicted {limit.metric} [{limit.unit}]", tuple(points))
    return Shown("\n".join(lines), _png(front_figure([panel])))


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()
