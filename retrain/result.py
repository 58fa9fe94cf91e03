"""Reads the result.json of a retraining."""

from __future__ import annotations

from pathlib import Path

from engine.config import validate
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.files import read_json
from retrain.state import ScoresRecord

FILE = "result.json"


def load_test(out: Path) -> Evaluation | None:
    """Returns the figures on the test images of the retraining in a folder; None if it has not ended. Raises
    ConfigError for a damaged file."""
    path = out / FILE
    if not path.exists():
        return None
    expected, remedy = "the result of a retraining", "delete it and resume the retraining, which writes it again"
    record = read_json(path, expected, remedy=remedy)
    figures = record.get("test") if isinstance(record, dict) else None
    if not isinstance(figures, dict):
        raise ConfigError(str(path), "has no figures of the test", expected, remedy)
    return validate(ScoresRecord, figures, f"{path}: test").evaluation
