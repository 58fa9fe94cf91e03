"""A limit on peak activation memory: a largest value, not a sum, so it removes candidates before the search.

An architecture's peak is the largest working set of its layers (supernet/activation.py). It stays below a bound exactly
if every layer does; so each edge keeps the candidates below the bound, and nothing is left to do for alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ConfigError, explain
from engine.percent import Percent
from latency.config import MeasureConfig
from search.config import PEAK, BoundKind, SearchConfig
from search.limits.limit import Limit
from supernet.activation import working_set
from supernet.space import Edge, Layer, Space, SpaceConfig, StageConfig


@dataclass(frozen=True, eq=False, kw_only=True)
class PeakLimit(Limit):
    """A limit on peak activation as it was applied to a space; its bound is in bytes."""

    name: str = PEAK
    metric: str = PEAK
    kind: BoundKind = "below"
    unit: str = "bytes"
    space: Space
    """The space without the candidates that exceed the bound."""
    measure: MeasureConfig
    removed: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """(edge, candidates) that exceed the bound."""

    def cost_of(self, paths: tuple[int, ...]) -> int:
        return max(layer_bytes(layer, self.space, self.measure) for layer in self.space.layers(paths))

    def allows(self, paths: tuple[int, ...]) -> bool:
        return self.cost_of(paths) <= self.bound

    def __str__(self) -> str:
        edges = "; ".join(f"{edge} {', '.join(names)}" for edge, names in self.removed) or "nothing"
        return f"{PEAK} below {self.bound:.6g} removes {edges}"


def layer_bytes(layer: Layer, space: Space, measure: MeasureConfig) -> int:
    """Returns a layer's working set in bytes, at the measured batch and precision."""
    elements = working_set(layer, space.op_settings(running_stats=True))
    return elements * measure.batch * measure.torch_dtype.itemsize


def reachable_peaks(space: Space, measure: MeasureConfig) -> tuple[int, int]:
    """Returns the smallest and the largest peak of any architecture."""
    low = high = 0
    for _, layers in _columns(space):
        sizes = [layer_bytes(layer, space, measure) for layer in layers]
        low, high = max(low, min(sizes)), max(high, max(sizes))
    return low, high


def restrict(config: SearchConfig, source: object = "limits") -> tuple[SearchConfig, PeakLimit | None]:
    """Returns the config without the candidates that a limit on peak activation forbids, and with this limit in bytes.

    `N%` is min + N % of the reachable range of peaks. Applying it again changes nothing. Raises ConfigError, which
    names the edge, if no candidate is left.
    """
    for i, limit in enumerate(config.limits):
        if limit.metric == PEAK:
            return _restricted(config, i, f"{source}: limits.{i}.below")
    return config, None


def _restricted(config: SearchConfig, i: int, where: str) -> tuple[SearchConfig, PeakLimit]:
    """Does the work of `restrict` for limit number `i`. where: the place of its bound, for errors."""
    space, measure = Space(config.space), config.measure
    with explain(where):
        low, high = reachable_peaks(space, measure)
    bound = config.limits[i].bound
    if isinstance(bound, str):
        bound = Percent(bound).between(low, high)
    if bound < low:
        _refuse(space, measure, bound, low, where)
    kept = {
        edge.name: tuple(str(layer.spec) for layer in edge.layers if layer_bytes(layer, space, measure) <= bound)
        for edge in space.edges
    }
    removed = tuple(
        (edge.name, gone)
        for edge in space.edges
        if (gone := tuple(name for name in edge.candidates if name not in kept[edge.name]))
    )
    number = config.limits[i].model_copy(update={"below": float(bound)})
    limits = (*config.limits[:i], number, *config.limits[i + 1 :])
    left = config.model_copy(update={"limits": limits, "space": without(config.space, space.edges, kept)})
    if not Space(left.space).searchable:
        raise ConfigError(
            where,
            f"below {bound:.0f} bytes no edge has more than one candidate, so nothing is left to search",
            remedy="raise the bound",
        )
    return left, PeakLimit(bound=float(bound), space=Space(left.space), measure=measure, removed=removed)


def _refuse(space: Space, measure: MeasureConfig, bound: float, low: int, where: str) -> None:
    """Raises ConfigError, which names the part that needs the most memory of all that cannot be avoided."""
    for name, layers in _columns(space):
        smallest = min(layers, key=lambda layer: layer_bytes(layer, space, measure))
        if layer_bytes(smallest, space, measure) == low:
            raise ConfigError(
                where,
                f"got {bound:.0f} bytes, but {name} needs at least {low} (its smallest is '{smallest}', batch "
                f"{measure.batch}, {measure.dtype})",
                remedy="raise the bound to that, or change the space",
            )


def _columns(space: Space) -> list[tuple[str, Sequence[Layer]]]:
    """Returns each place of the chain with the layers that it may take."""
    edges = [(f"edge {edge.name}", edge.layers) for edge in space.edges]
    return [("stem", [space.stem]), *edges, ("feature_mix", [space.feature_mix]), ("classifier", [space.classifier])]


def without(config: SpaceConfig, edges: Sequence[Edge], kept: dict[str, tuple[str, ...]]) -> SpaceConfig:
    """Returns the space whose edges have the candidates in `kept` only.

    A stage has one list for its first edge and one for the others, which share their shape, so this is exact.
    """
    of_stage: dict[int, list[Edge]] = {}
    for edge in edges:
        of_stage.setdefault(int(edge.name.removeprefix("stage").partition(".")[0]), []).append(edge)
    stages = [_stage_without(stage, of_stage[s], kept) for s, stage in enumerate(config.stages)]
    return config.model_copy(update={"stages": tuple(stages)})


def _stage_without(stage: StageConfig, edges: Sequence[Edge], kept: dict[str, tuple[str, ...]]) -> StageConfig:
    """Returns a stage whose edges have the candidates in `kept` only. edges: those of the stage. kept: by the edge's
    name."""
    first, others = edges[0], edges[1:]
    if all(kept[edge.name] == edge.candidates for edge in edges):
        return stage
    # `skip` stays in a list that edges drop it from; of a lone edge's two lists, only the one in use matters
    shown = others[0] if others else first
    candidates = stage.candidates
    if others or stage.first is None:
        candidates = tuple(n for n in stage.candidates if n not in shown.candidates or n in kept[shown.name])
    inherited = tuple(name for name in candidates if name != "skip" or first.residual)
    changed = {"candidates": candidates}
    if stage.first is not None or inherited != kept[first.name]:
        changed["first"] = kept[first.name]
    return stage.model_copy(update=changed)
