"""Files that somebody sends run no code: a module that they name is imported where the user allows it, nowhere else."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from retrain.weights import load_architecture
from search.loop import run_search
from search.many.family import derive_family
from supernet import CANDIDATES
from supernet.architecture import Architecture
from supernet.user_modules import load

OPS = """
from dataclasses import dataclass
from pathlib import Path
from supernet.catalogue import Candidate, register
from supernet.complexity import conv_complexity
from supernet.ops import ConvBN

Path("it_ran").touch()

@register()
@dataclass(frozen=True)
class Sent(Candidate):
    def __str__(self):
        return "sent"

    def build(self, c_in, c_out, stride, settings):
        return ConvBN(c_in, c_out, 1, settings, stride=stride)

    def complexity(self, c_in, c_out, size, stride):
        return conv_complexity(c_in, c_out, 1, -(-size // stride))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder, and a process to which no module of it is known."""
    monkeypatch.chdir(tmp_path)
    forget = {name for name in sys.modules if name.startswith("_user_")}
    candidates, modules = dict(CANDIDATES), dict(sys.modules)
    for name in forget:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path
    CANDIDATES.clear()
    CANDIDATES.update(candidates)
    for name in sys.modules.keys() - modules.keys():
        if name.startswith("_user_"):
            del sys.modules[name]


def forget_all() -> None:
    """Removes the user's modules and candidates from this process, as if it were a new one."""
    for name in [name for name in sys.modules if name.startswith("_user_")]:
        del sys.modules[name]
    CANDIDATES.pop("sent", None)
    Path("it_ran").unlink(missing_ok=True)


@pytest.fixture
def search(tiny_search):
    """A search whose space has the candidate of ops.py."""
    stages = [{"width": 8, "candidates": ["sent", "skip"]}, {"width": 16, "candidates": ["sent", "conv_k1"]}]
    space = tiny_search["space"] | {"stages": stages, "candidate_modules": ["ops.py"]}
    return tiny_search | {"space": space, "limits": [{"metric": "macs", "at": "50%"}]}


@pytest.fixture
def retraining(tiny_search, write_yaml, folder):
    settings = {"epochs": 1, "batch_size": 8}
    data = {key: value for key, value in tiny_search["data"].items() if key != "validation"}
    return write_yaml(folder / "retrain.yaml", {"data": data, "retrain": settings, "run": {"threads": 1}})


@pytest.fixture
def architecture(folder, search, space_of) -> Path:
    """architecture.json as it was sent, with ops.py beside it."""
    (folder / "ops.py").write_text(OPS)
    path = folder / "architecture.json"
    path.write_text(Architecture(space_of(search["space"]), (0, 0)).to_json())
    forget_all()
    return path


def refused(ended, *words: str) -> None:
    assert ended.status == 2, ended.err
    (line,) = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line, line
    assert not Path("it_ran").exists()


WOULD_RUN = "space.candidate_modules: the file would run 'ops.py'"
OPTION = "--allow-modules ops.py"


def test_a_retraining_imports_only_modules_that_are_allowed(architecture, retraining, door):
    command = ["run_retrain", retraining, "--architecture", architecture, "--out", "run"]
    refused(door(*command), str(architecture), WOULD_RUN, OPTION)
    assert not Path("run").exists()
    refused(door(*command, "--allow-modules", "other.py"), WOULD_RUN)
    ended = door(*command, "--allow-modules", "ops.py")
    assert ended.status == 0, ended.err
    assert "top-5" not in ended.out  # of 2 classes
    checkpoint = next(Path("run/checkpoints").glob("*.pt"))

    forget_all()
    command = ["evaluate", retraining, "--architecture", architecture, "--checkpoint", checkpoint]
    refused(door(*command), WOULD_RUN, OPTION)
    ended = door(*command, "--allow-modules", "ops.py")
    assert ended.status == 0, ended.err
    assert "top-5" not in ended.out
    assert Path("it_ran").exists()


def test_a_module_is_loaded_from_the_path_that_the_option_allows(architecture, folder):
    (folder / "elsewhere").mkdir()
    (folder / "ops.py").rename(folder / "elsewhere" / "ops.py")
    assert load_architecture(architecture, [str(folder / "elsewhere" / "ops.py")]).names == ("sent", "sent")


def test_a_module_that_the_program_has_imported_needs_no_permission(architecture, folder):
    load("ops.py")
    assert load_architecture(architecture).names == ("sent", "sent")


@pytest.mark.parametrize("module", ["{}/ops.py", "../{0.name}/ops.py", "~/ops.py"])
def test_a_path_out_of_the_folder_is_refused_even_beside_an_option_with_that_name(
    architecture, retraining, door, folder, monkeypatch, module
):
    monkeypatch.setenv("HOME", str(folder))
    record = json.loads(architecture.read_text())
    record["space"]["candidate_modules"] = [module.format(folder)]
    architecture.write_text(json.dumps(record))
    command = ["run_retrain", retraining, "--architecture", architecture, "--out", "run", "--allow-modules", "ops.py"]
    refused(door(*command), "space.candidate_modules", "leads out of the working folder")


def test_every_module_is_named_at_once(architecture, retraining, door):
    record = json.loads(architecture.read_text())
    record["space"]["candidate_modules"] = ["ops.py", "not_there.py", "package.ops"]
    architecture.write_text(json.dumps(record))
    command = ["run_retrain", retraining, "--architecture", architecture, "--out", "run"]
    refused(door(*command), "'ops.py', 'not_there.py', 'package.ops'", "ops.py not_there.py package.ops")


def test_timings_name_architectures_below_their_folder_and_import_nothing(
    architecture, search, write_yaml, door, folder
):
    space = search["space"] | {"candidate_modules": [], "stages": [{"width": 8, "candidates": ["conv_k1", "skip"]}]}
    config = write_yaml(folder / "c.yaml", {"space": space})
    (folder / "t.csv").write_text("architecture,ms\narchitecture.json,3\n")
    command = ["fit_latency", config, "t.csv", "--out", "table.yaml"]
    refused(door(*command), "t.csv:2", WOULD_RUN, OPTION)
    for name in (str(architecture), "../x.json"):
        (folder / "t.csv").write_text(f"architecture,ms\n{name},3\n")
        refused(door(*command), "t.csv:2", "leads out of the folder of this file")
    (folder / "t.csv").write_text("architecture,ms\narchitecture.json,3\n")
    ended = door(*command, "--allow-modules", "ops.py")
    assert "is of another space" in ended.err  # it has been read


def test_a_config_of_the_users_own_needs_no_option(architecture, search, write_yaml, door, folder):
    """What it imports is what its timings then name."""
    config = write_yaml(folder / "c.yaml", {"space": search["space"]})
    (folder / "t.csv").write_text("architecture,ms\narchitecture.json,3\n")
    ended = door("fit_latency", config, "t.csv", "--out", "table.yaml")
    assert "1 different networks" in ended.err


@pytest.fixture
def run(folder, search, write_yaml):
    """The run of a search that somebody has sent, with ops.py."""
    (folder / "ops.py").write_text(OPS)
    run_search(write_yaml(folder / "search.yaml", search), folder / "run")
    forget_all()
    return folder / "run"


def changed(run: Path, change) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    change(config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_deriving_from_a_run_imports_only_modules_that_are_allowed(run, door):
    refused(door("derive", run, "--no-score"), str(run / "config.yaml"), "the file would run 'ops.py'", OPTION)
    ended = door("derive", run, "--allow-modules", "ops.py")
    assert ended.status == 0, ended.err
    assert Path("it_ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["data"].update(module="shutil", name="rmtree", root="precious"),
        lambda c: c["search"].update(terms=[{"function": "shutil:rmtree"}]),
        lambda c: c["search"].update(arch_update="reinforce", reinforce={"reward": "shutil:rmtree"}, loss=None),
    ],
    ids=["data.module", "search.terms", "search.reinforce.reward"],
)
def test_no_function_is_called_for_a_run_that_was_sent(run, door, change):
    """Not even a function of a module that every process has is called."""
    Path("precious").mkdir()
    changed(run, change)
    refused(door("derive", run, "--allow-modules", "ops.py"), "the file would run 'shutil'", "--allow-modules shutil")
    assert Path("precious").exists()


def test_every_module_and_function_of_a_run_is_named_at_once(run, door):
    changed(run, lambda c: c["data"].update(module="mine/data.py", name="pairs"))
    changed(run, lambda c: c["search"].update(terms=[{"function": "terms.py:f"}, {"function": "ops.py:g"}]))
    refused(door("derive", run), "'ops.py', 'mine/data.py', 'terms.py';", "ops.py mine/data.py terms.py")


def test_a_search_with_a_module_elsewhere_goes_on_on_this_machine(folder, search, write_yaml, retraining, door):
    """Its architecture.json has only the file's name; --allow-modules has the path. Its resume needs no option."""
    (folder / "far").mkdir()
    module = folder / "far" / "ops.py"
    module.write_text(OPS)
    search["space"] |= {"candidate_modules": [str(module)]}
    config = write_yaml(folder / "search.yaml", search)
    run_search(config, folder / "run")
    text = (folder / "run" / "architecture.json").read_text()
    assert json.loads(text)["space"]["candidate_modules"] == ["ops.py"]
    assert str(folder) not in text
    forget_all()
    assert door("run_search", config, "--out", "run", "--resume").status == 0
    forget_all()
    command = ["run_retrain", retraining, "--architecture", "run/architecture.json", "--out", "again"]
    refused(door(*command), WOULD_RUN)
    assert door(*command, "--allow-modules", module).status == 0
    assert door(*command, "--allow-modules", module, "--resume").status == 0
    forget_all()
    refused(door("derive", "run", "--no-score"), f"'{module}' leads out of the working folder")
    assert door("derive", "run", "--no-score", "--allow-modules", module).status == 0


def test_python_allows_modules_by_an_argument(run):
    assert derive_family(run, scored=False, allow_modules=["ops.py"]).members
