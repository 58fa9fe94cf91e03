"""Writes configuration files for tests, and returns the one line that a mistake in one of them gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import load_config
from engine.errors import ConfigError


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(tmp_path: Path, text: str, *overrides: str) -> dict[str, Any]:
    return load_config(written(tmp_path / "a.yaml", text), overrides)


def message_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message
