"""Networks from files: architecture.json, and weights from a retraining's or a search's checkpoint."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from engine.checkpoints import load_checkpoint, misfit
from engine.errors import CheckpointError, ConfigError, explain
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import SpaceConfig
from supernet.supernet import Supernet

SPACE_KEYS = frozenset(f"space.{key}" for key in SpaceConfig.model_fields)
"""The keys of architecture.json that data may not fit."""


def load_architecture(path: Path, allow_modules: Collection[str] = ()) -> Architecture:
    """Read architecture.json. ConfigError where it is absent or malformed, or names modules that are not allowed.

    allow_modules: as for `Architecture.from_json`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; a search writes architecture.json into its run folder") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {reason}; expected an architecture.json") from None
    with explain(str(path)):
        return Architecture.from_json(text, allow_modules=allow_modules)


def is_from_search(checkpoint: dict[str, object]) -> bool:
    """Whether a checkpoint holds a supernet (of a search) rather than a network (of a retraining)."""
    return "search" in checkpoint


def load_weights(architecture: Architecture, path: Path) -> tuple[Network, bool]:
    """(the network with a checkpoint's weights, whether its BN statistics are still to be collected).

    A search's checkpoint gives the supernet's weights on the architecture's paths. CheckpointError if it does not fit.
    """
    checkpoint = load_checkpoint(path)
    try:
        if is_from_search(checkpoint):
            supernet = Supernet(architecture.space)
            supernet.load_state_dict(checkpoint["search"]["net"])
            return Network.inherit(supernet, architecture), True
        network = Network(architecture)
        network.load_state_dict(checkpoint["retrain"]["net"])
    except (KeyError, TypeError) as error:
        lacks = f"has no {error}" if isinstance(error, KeyError) else "holds something else"
        raise CheckpointError(
            f"{path}: {lacks}, so it is no checkpoint of a search or a retraining; expected a step-*.pt file of a run"
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"{path}: does not fit the architecture: {misfit(error)}") from error
    return network, False
