"""Where a user's module is looked for, how often it runs, and what is said when it fails."""

import sys

import pytest

from supernet.user_modules import CHECKOUT, call, load


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_runs_once(folder):
    (folder / "own.py").write_text("runs = []\ndef note(value):\n    runs.append(value)\n    return tuple(runs)\n")
    assert call("own.py", "note", 1) == (1,)
    assert call(str(folder / "own.py"), "note", 2) == (1, 2)
    assert load("own.py").runs == [1, 2]


def test_the_working_folder_comes_before_the_checkout(folder):
    name = "docs/examples/ghost.py"
    assert load(name).__file__ == str(CHECKOUT / name)
    (folder / "docs" / "examples").mkdir(parents=True)
    (folder / name).write_text("here = True\n")
    assert load(name).here


def test_a_file_that_failed_runs_again_once_corrected(folder):
    (folder / "own.py").write_text("answer = 1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(ValueError, match=r"^cannot import 'own\.py': own\.py, line 1: ZeroDivisionError: .*; correct"):
        load("own.py")
    assert not {name for name in sys.modules if "own" in name} - before
    (folder / "own.py").write_text("answer = 42\n")
    assert load("own.py").answer == 42


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = nm\n", "own.py, line 1: NameError: name 'nm' is not defined; correct it"),
        (
            "import math\n\ndef f():\n    return math.sqrt(-1)\n\nf()\n",
            "own.py, line 4: ValueError: math domain error;",
        ),
        ("import nothing_there\n", "own.py, line 1: ModuleNotFoundError: No module named 'nothing_there'; correct it"),
        ("a = 1\nclass :\n", "SyntaxError: invalid syntax (own.py, line 2); correct it"),
        ("raise ValueError('two\\nlines')\n", "own.py, line 1: ValueError: two lines; correct it"),
        ("raise SystemExit(3)\n", "own.py, line 1: SystemExit: 3; correct it"),
        ("import json\njson.loads('')\n", "own.py, line 2: JSONDecodeError: "),
    ],
)
@pytest.mark.parametrize("dotted", [False, True])
def test_what_fails_is_one_line_with_its_place(folder, monkeypatch, text, words, dotted):
    monkeypatch.syspath_prepend(folder)
    (folder / "own.py").write_text(text)
    with pytest.raises(ValueError, match=r"^cannot import 'own") as error:
        load("own" if dotted else "own.py")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["nothing_there", "nothing.there", "", ".relative"])
def test_a_module_that_is_not_there(module):
    with pytest.raises(ValueError, match=r"^cannot import .*; give a dotted module or a path to a \.py file$"):
        load(module)


def test_an_interrupt_is_no_mistake_of_the_user(folder):
    (folder / "own.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load("own.py")


def test_only_a_modules_own_functions_are_called(folder):
    (folder / "own.py").write_text("from json import loads\n_hidden = max\ndef dumps():\n    return 1\n")
    assert call("own.py", "dumps") == 1
    with pytest.raises(ValueError, match=r"has no function 'loads', expected dumps$"):
        call("own.py", "loads")
    (folder / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"expected one to be written there$"):
        call("empty.py", "loads")
