"""docs/tools/keys.py lists every key of the YAML files."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def keys() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("_keys", CHECKOUT / "docs" / "tools" / "keys.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks the module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models that a type is made of, found in another way than the reference finds them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for part in get_args(annotation):
        yield from models_in(part)


def test_every_key_of_every_model_is_a_row_with_a_meaning(keys):
    sections = keys.sections(keys.files())
    text = keys.markdown(sections)
    tops = set(keys.files().values())
    wanted = {model for top in tops for model in models_in(top)} - tops
    assert {section.model for section in sections} == wanted
    for section in sections:
        assert section.model.__doc__, section.key
        table = text.partition(section.heading)[2].partition("\n## ")[0]
        for name, _, default, meaning in section.rows:
            assert meaning, f"{section.key}.{name} has no docstring"
            assert f"| `{name}` | " in table
            assert f" | {default} | " in table
        assert {name for name, *_ in section.rows} | {"form"} >= set(section.model.model_fields)


def test_types_bounds_and_defaults_are_those_of_the_models(keys):
    text = keys.markdown(keys.sections(keys.files()))
    for row in (
        "| `classes` | whole number, ≥ 2, ≤ 1,000,000 | `1000` | ",
        "| `channels_last` | true or false | `true` | ",
        "| `device` | `cpu`, `cuda` | `cpu` | ",
        "| `tolerance` | number, ≥ 0.001, &lt; 1 | `0.02` | ",
        "| `stages` | list: [section](#StageConfig), ≥ 1 entries, ≤ 10,000 entries | **required** | ",
        "| `arch_betas` | list: number | `[0, 0.999]` | ",
        "| `label_smoothing` | number, ≥ 0, &lt; 1 | `0.1` | ",
    ):
        assert row in text
