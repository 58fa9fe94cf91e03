"""Packages import each other in one direction only, inside functions and conditions too."""

import ast
from pathlib import Path

import pytest

from tests.packages import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "supernet": set(),
    "engine": set(),
    "latency": {"supernet", "engine"},
    "search": {"supernet", "latency", "engine"},
    "retrain": {"supernet", "engine"},
    "published": {"supernet", "engine"},
    "proxyless_nas_tensorflow": {"supernet", "engine", "published"},
    "report": {"supernet", "engine", "latency", "search", "retrain", "published"},
    "export": {"supernet", "engine", "latency", "retrain", "proxyless_nas_tensorflow"},
    "proxyless_nas": {*PACKAGES} - {"proxyless_nas"},
}
OURS = {*ALLOWED, "scripts", "benchmarks", "configs", "tests", "setup"}


def imported(source: str, package: str) -> set[str]:
    """Top-level names that a module of `package` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name.split(".")[0] for alias in aliases}
            case ast.ImportFrom(module=module, level=0):
                names.add(str(module).split(".")[0])
            case ast.ImportFrom():
                names.add(package)  # relative: a package cannot be left this way
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names.add(name.split(".")[0])
    return names


def trespasses(root: Path, package: str) -> list[str]:
    """'file imports package' for each import that the direction forbids."""
    forbidden = OURS - ALLOWED[package] - {package}
    return [
        f"{path.relative_to(root)} imports {name}"
        for path in sorted((root / package).rglob("*.py"))
        for name in sorted(imported(path.read_text(), package) & forbidden)
    ]


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_in_one_direction(package):
    if not (ROOT / package).is_dir():
        pytest.skip(f"there is no {package}/")
    assert trespasses(ROOT, package) == []


def test_every_package_has_a_rule():
    """A new package has to take its place in the order."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == ALLOWED.keys() == set(PACKAGES)


def test_no_script_hides_a_package():
    """Running scripts/x.py puts scripts/ first on the path: a scripts/search.py would be imported as `search`."""
    scripts = {path.stem for path in (ROOT / "scripts").iterdir()}
    assert "run_search" in scripts
    assert not scripts & {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_the_order_has_no_cycle():
    placed: set[str] = set()
    while placed != ALLOWED.keys():
        free = {package for package, below in ALLOWED.items() if package not in placed and below <= placed}
        assert free
        placed |= free


@pytest.mark.parametrize(
    "line",
    [
        "import search",
        "import numpy, search.loop as loop",
        "from search import gradient",
        "from search.loop import run",
        "def f():\n    from search import loop",
        "if TYPE_CHECKING:\n    import search.loop",
        "import importlib\nimportlib.import_module('search.loop')",
    ],
)
def test_an_import_against_the_direction_is_found(tmp_path, line):
    (tmp_path / "latency").mkdir()
    (tmp_path / "latency" / "table.py").write_text(f"import supernet\nfrom latency import device\n{line}\n")
    assert trespasses(tmp_path, "latency") == ["latency/table.py imports search"]


def test_imports_in_texts_comments_or_of_relative_modules_are_not_counted(tmp_path):
    (tmp_path / "latency").mkdir()
    (tmp_path / "latency" / "a.py").write_text(
        '"""import search"""\nsearch = "from search import x"  # import search\n'
    )
    (tmp_path / "latency" / "b.py").write_text("from . import a\nfrom .a import search\nimport research\n")
    assert trespasses(tmp_path, "latency") == []


ROOMS = {  # of search: what each may import of the others beside the modules on top
    "limits": set(),
    "derive": {"limits"},
    "learn": {"limits", "derive"},
    "many": {"limits", "derive", "learn"},
}
BELOW_ROOMS = {"config", "program", "own"}
"""Modules on top of search that `limits`, `derive` and `learn` may import; the other ones import these rooms."""


def modules_imported(path: Path, package: str) -> set[str]:
    """Returns the dotted names of modules of `package` that a file imports when it runs, by absolute names."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    of_types = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for node in of_types:
        node.body = [ast.Pass()]
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                names |= {alias.name for alias in aliases if alias.name.split(".")[0] == package}
            case ast.ImportFrom(module=str(module), names=aliases, level=0) if module.split(".")[0] == package:
                inner = {f"{module}.{alias.name}" for alias in aliases}
                names |= {name for name in inner if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()}
                names |= {module} if names.isdisjoint(inner) else set()
    return names


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Returns the modules of one import circle, or nothing if there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        return next((found for inner in sorted(graph.get(name, ())) if (found := walk(inner, [*way, name]))), [])

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


@pytest.mark.parametrize("package", ALLOWED)
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    files = sorted((ROOT / package).rglob("*.py"))
    graph = {".".join(f.relative_to(ROOT).with_suffix("").parts): modules_imported(f, package) for f in files}
    assert len(graph) > 2
    assert cycle(graph) == []


def test_a_circle_of_imports_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_of_search_import_in_one_direction(room):
    allowed = {room, *ROOMS[room]} | (BELOW_ROOMS if room != "many" else set())
    imported_rooms = {
        f"{path.name}: {name}"
        for path in sorted((ROOT / "search" / room).glob("*.py"))
        for name in modules_imported(path, "search")
        if name.split(".")[1] not in allowed and (room != "many" or name.split(".")[1] in ROOMS)
    }
    assert imported_rooms == set()
