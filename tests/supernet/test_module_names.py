"""A file from elsewhere may name only allowed modules; a file for elsewhere names them without local folders."""

import pytest

from supernet.module_names import permitted, portable
from supernet.user_modules import CHECKOUT, load


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def imported(folder):
    (folder / "known.py").write_text("")
    load("known.py")


@pytest.mark.usefixtures("imported")
def test_a_file_from_elsewhere_may_name_only_modules_that_are_imported_or_allowed(folder):
    assert permitted(["known.py", "json"], ()) == (str(folder / "known.py"), "json")
    assert permitted(["new.py", "pkg.new"], ["new.py", "pkg.new"]) == ("new.py", "pkg.new")
    assert permitted(["ops/new.py"], ["/at/ops/new.py"]) == ("/at/ops/new.py",)  # the user says where it is
    with pytest.raises(ValueError, match=r"would run 'new\.py', 'pkg\.new'; .* --allow-modules new\.py pkg\.new \("):
        permitted(["known.py", "new.py", "ok.py", "pkg.new"], ["ok.py"])
    for other in ("renew.py", "new.py/x.py", "other/new.pyc", "new"):
        with pytest.raises(ValueError, match=r"would run 'new\.py'"):
            permitted(["new.py"], [other])


@pytest.mark.usefixtures("imported")
def test_a_function_of_an_imported_module_is_not_called_for_a_file_from_elsewhere():
    """`data: {module: shutil, name: rmtree, root: ...}` imports nothing new, but would call a function that deletes."""
    for module in ("shutil", "known.py"):
        with pytest.raises(ValueError, match=f"would run '{module}'"):
            permitted([module], (), called=[module])
        assert permitted([module], [module], called=[module]) == (module,)


@pytest.mark.usefixtures("imported")
@pytest.mark.parametrize("module", ["{}/known.py", "../{0.name}/known.py", "~/known.py", "a/../known.py"])
def test_a_path_that_leads_elsewhere_needs_permission_word_for_word(folder, module, monkeypatch):
    """The permission is needed even if the module is imported already."""
    monkeypatch.setenv("HOME", str(folder))
    name = module.format(folder)
    with pytest.raises(ValueError, match="leads out of the working folder; read that code"):
        permitted([name], ["known.py"])
    assert permitted([name], [name]) == (name,)


def test_a_file_for_elsewhere_names_modules_without_the_folders_of_this_machine():
    checkout = str(CHECKOUT)
    given = ("ops.py", "pkg.ops", "sub/ops.py", "/a/b/mine.py", f"{checkout}/docs/examples/ghost.py", "../c/yours.py")
    assert portable(given) == ("ops.py", "pkg.ops", "sub/ops.py", "mine.py", "docs/examples/ghost.py", "yours.py")
    assert portable(["/a/ops.py", "/b/ops.py"]) == ("a/ops.py", "b/ops.py")
    assert portable(["/a/ops.py", "ops.py"]) == ("a/ops.py", "ops.py")
    assert portable(["/a/ops.py", "/a/../a/ops.py"]) == ("ops.py", "ops.py")
