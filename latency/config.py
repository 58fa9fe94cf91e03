"""YAML section `measure`: on what, and how, a latency table is measured."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from engine.config import Section
from supernet.space import SpaceConfig


class MeasureConfig(Section):
    """YAML section `measure`. device, threads, batch, dtype and memory format are part of a table's identity."""

    device: Literal["cpu", "cuda", "external"] = "cpu"
    """external: the table comes from another device, through scripts/import_latency.py."""
    threads: int = Field(1, ge=1)
    """CPU threads inside an op."""
    batch: int = Field(1, ge=1)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    rounds: int = Field(40, ge=3)
    """Timings of each op. One round runs every candidate of every edge once, inside whole networks."""
    warmup_rounds: int = Field(5, ge=1)
    """Rounds thrown away first."""

    @model_validator(mode="after")
    def half_precision_needs_cuda(self) -> Self:
        if self.dtype == "float16" and self.device == "cpu":
            raise ValueError("measure.dtype: got 'float16' with device cpu, expected float32 or bfloat16 there")
        return self

    @property
    def torch_dtype(self) -> torch.dtype:
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[self.dtype]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


class LatencyConfig(Section):
    """A file of configs/latency/: a space, and how to measure it. Search configs extend it."""

    space: SpaceConfig
    measure: MeasureConfig = MeasureConfig()


SEARCH_SECTIONS = frozenset({"data", "limits", "search", "run"})


def latency_part(config: dict[str, Any]) -> dict[str, Any]:
    """The space and measure sections of a search config, so that one YAML per device also makes its table."""
    return {key: value for key, value in config.items() if key not in SEARCH_SECTIONS}
