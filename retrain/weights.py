"""Networks from files: architecture.json, and weights from a retraining's or a search's checkpoint."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoints import load_checkpoint, misfit
from engine.errors import CheckpointError, explain
from engine.files import read_text
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import SpaceConfig
from supernet.supernet import Supernet

SPACE_KEYS = frozenset(f"space.{key}" for key in SpaceConfig.model_fields)
"""The keys of architecture.json that data may not fit."""


def load_architecture(path: Path) -> Architecture:
    """Read architecture.json. ConfigError where it is absent or malformed."""
    missing = "a search writes architecture.json into its run folder"
    text = read_text(path, "an architecture.json", missing=missing)
    with explain(str(path)):
        return Architecture.from_json(text)


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
