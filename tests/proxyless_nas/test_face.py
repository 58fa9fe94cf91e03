"""The package's names: complete, sorted, documented, and imported when they are used."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib

import pytest

import proxyless_nas as pn
from tests.packages import PACKAGES

VERBS = {
    "measure", "verify", "check", "search", "derive", "sweep", "retrain", "evaluate", "export", "predict", "compare",
    "time_files", "retrain_sweep", "fit",
}  # fmt: skip
NOUNS = {
    "Space", "Architecture", "Chain", "Comparison", "Network", "Supernet", "LatencyTable", "SearchConfig",
    "RetrainConfig", "UserError",
}  # fmt: skip
OTHERS = {"pretrained", "publish", "report", "retrain_sweep", "ship", "show", "show_data", "verify_ship"}
NETWORKS = {
    "proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14", "proxyless_mobile14",
    "proxyless_cifar", "mobilenet_v2", "efficientnet_lite0",
}  # fmt: skip
HEAVY = ("torch", "numpy", "scipy", "matplotlib", "pydantic", "rich", "yaml", "search", "engine", "latency", "supernet")


def test_the_exported_names_are_complete_and_sorted():
    assert pn.__all__ == sorted(pn.__all__)
    assert set(pn.__all__) == VERBS | NOUNS | NETWORKS | OTHERS
    assert [name for name in dir(pn) if not name.startswith("__")] == pn.__all__  # what a shell completes


def test_the_names_that_a_type_checker_sees_are_the_exported_ones(checkout):
    """The names that are imported under TYPE_CHECKING come from the very modules in which they are found at run
    time."""
    tree = ast.parse((checkout / "proxyless_nas" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(homes) == pn.__all__
    for name, module in homes.items():
        assert getattr(sys.modules.get(module) or __import__(module, fromlist=[name]), name) is inspect.unwrap(
            getattr(pn, name)
        )


def test_the_summary_lists_every_name():
    """`help(pn)` and editors show it first."""
    words = set(re.findall(r"\w+", pn.__doc__))
    assert set(pn.__all__) - {"proxyless_mobile14"} <= words  # another name of proxyless_mobile_14


def test_type_checkers_may_read_the_types_of_every_package(checkout):
    """Without a file py.typed (PEP 561), mypy takes an installed package for one without types."""
    assert all((checkout / package / "py.typed").is_file() for package in PACKAGES)
    package_data = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in package_data["*"]


@pytest.mark.parametrize("name", pn.__all__)
def test_every_name_has_a_docstring(name):
    member = getattr(pn, name)
    text = inspect.getdoc(member)
    assert text
    assert text.splitlines()[0].rstrip().endswith((".", ":")) or "." in text
    assert callable(member)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        pn.serch  # noqa: B018


def test_importing_the_package_imports_nothing_else(shell):
    program = f"import json, sys, proxyless_nas; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    ended = subprocess.run([sys.executable, "-c", program], env=shell, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == []


@pytest.mark.parametrize("name", sorted(VERBS | NETWORKS | OTHERS))
def test_every_function_names_its_types(name):
    hints = getattr(pn, name).__annotations__
    parameters = inspect.signature(getattr(pn, name)).parameters
    assert hints.keys() == {*parameters, "return"}
