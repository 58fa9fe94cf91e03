"""The maps in the docstrings of engine/ and retrain/: a newcomer finds each module there."""

from pathlib import Path

import pytest

import engine
import engine.curves
import engine.data
import engine.runs
import retrain


@pytest.mark.parametrize(
    "package", [engine, engine.curves, engine.data, engine.runs, retrain], ids=lambda p: p.__name__
)
def test_a_package_names_each_of_its_modules_in_its_docstring(package):
    folder = Path(package.__file__).parent
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    rooms = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    assert [name for name in sorted(modules | rooms) if f"`{name}`" not in package.__doc__] == []
