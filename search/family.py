"""Several bounds, one search: an architecture for each, from the newest checkpoint of a run."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from engine.checkpoints import Checkpoints
from engine.config import load_config, validate
from engine.errors import CheckpointError, ConfigError
from search.config import SearchFile
from search.derivation import Derivation, derive
from search.limits import Limit, resolve, resolve_bound
from search.loop import write_architecture
from supernet.alpha import mask_of
from supernet.architecture import Architecture
from supernet.space import Space

log = logging.getLogger("search")

_NUMBER_OR_PERCENT = re.compile(r"\d+(\.\d*)?([eE][-+]?\d+)?|\d+(\.\d+)?\s*%")


@dataclass(frozen=True)
class FamilyMember:
    """One derived architecture and its file."""

    path: Path
    architecture: Architecture
    derivation: Derivation
    limits: tuple[Limit, ...]


def derive_family(run: Path, bounds: Sequence[str] = (), method: str | None = None) -> list[FamilyMember]:
    """Derive from a search's newest good checkpoint, at the run's own bound or at each of `bounds` of its first limit.

    bounds: numbers in the metric's unit, or `N%` of the reachable range. The run may still be running: it is only read.
    Writes architecture-<bound>.json (architecture.json without bounds) into the run folder. Raises ConfigError,
    CheckpointError, or InfeasibleError.
    """
    config_file = run / "config.yaml"
    if not config_file.exists():
        raise ConfigError(f"{run}: no config.yaml; expected the folder of a search, as given to run_search.py --out")
    config = validate(SearchFile, load_config(config_file), str(config_file))
    resolved = resolve(config, config_file)
    space, limits = resolved.space, resolved.limits
    for note in resolved.notes:
        log.warning(str(note))
    if bounds and not limits:
        raise ConfigError("--at: the run's only limit has been applied to its space; search again with another bound")
    alpha, step = _newest_alpha(run, space)
    method = method or config.search.derive
    asked = [(f"-{_slug(b)}", _with_bound(limits, b)) for b in bounds] or [("", limits)]
    members = []
    for suffix, own_limits in asked:
        derivation = derive(alpha, mask_of(space), own_limits, method)
        architecture = Architecture(space, derivation.paths, f"{run.name}{suffix}-step{step}")
        path = run / f"architecture{suffix}.json"
        write_architecture(path, architecture, own_limits, resolved.peak)
        members.append(FamilyMember(path, architecture, derivation, own_limits))
    return members


def _newest_alpha(run: Path, space: Space) -> tuple[Tensor, int]:
    newest = Checkpoints(run / "checkpoints").newest()
    if newest is None:
        raise CheckpointError(f"{run}: no checkpoint yet; wait for the first one (run.checkpoint_every steps)")
    step, state = newest
    search = state.get("search")
    alpha = search.get("alpha") if isinstance(search, dict) else None
    if not isinstance(alpha, Tensor) or alpha.shape != space.mask.shape:
        raise CheckpointError(
            f"{run}: its checkpoint is not of a search in this space; expected a run of run_search.py"
        )
    return alpha, step


def _with_bound(limits: tuple[Limit, ...], text: str) -> tuple[Limit, ...]:
    percent = text.strip().endswith("%")
    if not _NUMBER_OR_PERCENT.fullmatch(text.strip()) or (percent and float(text.strip().rstrip("% ")) > 100):
        raise ConfigError(
            f"--at: got '{text}', expected a number in {limits[0].unit}, or a percentage from 0% to 100% such as 50%"
        )
    bound: float | str = text if percent else float(text)
    return (replace(limits[0], bound=resolve_bound(bound, limits[0].cost, "--at", limits[0].unit)), *limits[1:])


def _slug(bound: str) -> str:
    return bound.strip().replace(" ", "").replace("%", "percent")
