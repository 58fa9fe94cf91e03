"""Reads the record in a checkpoint of how an image becomes the network's input."""

from __future__ import annotations

from typing import Any

from engine.config import validate
from engine.data.preprocessing import Preprocessing, shorter_side_of
from engine.errors import CheckpointError, ConfigError


def preprocessing_in(checkpoint: dict[str, Any], where: str) -> Preprocessing | None:
    """Returns the preprocessing that a checkpoint records; None if it records none. Raises CheckpointError if the
    record is wrong. where: the checkpoint's place, for errors."""
    record = checkpoint.get("preprocessing")
    if not isinstance(record, dict):
        return None
    try:
        return validate(Preprocessing, completed(record), f"{where}: preprocessing")
    except ConfigError as error:
        raise CheckpointError.of(error) from None


def completed(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's record with `colours` and `shorter_side`, which earlier versions left out.

    They recorded the resizing in words alone; equal means and deviations of several channels are those of grey images.
    """
    if {"colours", "shorter_side"} <= record.keys():
        return record
    size, mean, std = record.get("input_size"), record.get("mean"), record.get("std")
    if not isinstance(size, int) or not isinstance(mean, list) or not isinstance(std, list):
        return record
    side = shorter_side_of(size)
    of_files = f"bilinear with antialiasing, the shorter side to {side}, then the central {size} x {size}"
    grey = len(set(zip(mean, std, strict=False))) == 1
    cut = record.get("resize") == of_files
    # a set of image files that is read in three channels has three means of its own
    return {"colours": 1 if grey else len(mean), "shorter_side": side if cut else None} | record
