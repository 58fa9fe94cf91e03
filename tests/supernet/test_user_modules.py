"""A user's module is found, runs once, and is refused in one line if it fails."""

import logging
import os
import sys

import pytest

from supernet import user_modules
from supernet.user_modules import CHECKOUT, call, load, named_function


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_that_is_loaded_twice_runs_once(folder):
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
def test_a_module_that_fails_is_refused_in_one_line_with_file_and_line(folder, monkeypatch, text, words, dotted):
    monkeypatch.syspath_prepend(folder)
    (folder / "own.py").write_text(text)
    with pytest.raises(ValueError, match=r"^cannot import 'own") as error:
        load("own" if dotted else "own.py")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["nothing_there", "nothing.there", "", ".relative"])
def test_a_module_that_does_not_exist_is_refused(module):
    with pytest.raises(ValueError, match=r"^cannot import .*; give a dotted module or a path to a \.py file$"):
        load(module)


def test_an_interrupt_during_an_import_is_raised_unchanged(folder):
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


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        ("SystemExit(3)", "SystemExit: 3"),
        ("GeneratorExit()", "GeneratorExit"),
        ("type('Own', (BaseException,), {})('mine')", "Own: mine"),
        ("type('Mute', (Exception,), {'__str__': lambda s: 1 / 0})()", "Mute: (its text fails with ZeroDivisionError)"),
        ("type('Deep', (Exception,), {'__str__': lambda s: str(s)})()", "Deep: (its text fails with RecursionError)"),
        ("ExceptionGroup('two', [ValueError(1), KeyError(2)])", "ExceptionGroup: two (2 sub-exceptions)"),
        ("MemoryError()", "MemoryError"),
        (r"ValueError('half \ud800 a pair')", r"ValueError: half \ud800 a pair"),
    ],
)
def test_any_exception_of_a_users_function_becomes_one_line(folder, raised, says):
    """It does at import and in a call."""
    (folder / "raises.py").write_text(f"raise {raised}\n")
    (folder / "own.py").write_text(f"def f():\n    raise {raised}\n")
    with pytest.raises(ValueError, match=r"^cannot import 'raises\.py'") as error:
        load("raises.py")
    assert str(error.value) == f"cannot import 'raises.py': raises.py, line 1: {says}; correct it"
    with pytest.raises(ValueError, match=r"^'own\.py': f\(\) failed") as error:
        call("own.py", "f")
    assert str(error.value) == f"'own.py': f() failed: own.py, line 2: {says}; correct it"


def test_an_interrupt_inside_a_call_is_raised_unchanged(folder):
    (folder / "own.py").write_text("def f():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        call("own.py", "f")


def test_endless_recursion_in_a_users_function_becomes_one_line(folder):
    (folder / "own.py").write_text("def f():\n    return f()\n")
    with pytest.raises(ValueError, match=r"f\(\) failed: own\.py, line 2: RecursionError: maximum recursion depth"):
        call("own.py", "f")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("async def f(): return 1", "'own.py': f() is an `async def`, expected a plain function"),
        ("async def f():\n    yield 1", "'own.py': f() is an `async def`, expected a plain function"),
        ("def f():\n    yield 1", "'own.py': f() is a generator, expected a plain function"),
        ("async def _g(): return 1\ndef f(): return _g()", "'own.py': f() returned a coroutine, expected its result"),
        ("def f(): return (i for i in ())", "'own.py': f() returned a generator, expected its result"),
    ],
)
@pytest.mark.filterwarnings("error")  # "coroutine ... was never awaited" among them
def test_a_generator_or_async_function_is_refused(folder, code, says):
    (folder / "own.py").write_text(code + "\n")
    with pytest.raises(ValueError, match=r"correct it$") as error:
        call("own.py", "f")
    assert str(error.value).startswith(says)


def test_the_error_about_a_function_with_other_arguments_names_the_expected_ones(folder):
    (folder / "own.py").write_text(
        "def f(p, space):\n    pass\ndef g(p, *, space):\n    pass\ndef h(*all):\n    return all\n"
    )
    with pytest.raises(
        ValueError, match=r"f\(\) takes \(p, space\), expected it to take \(p, space, progress\): too many"
    ):
        named_function("own.py", "f", ("p", "space", "progress"))(1, 2, 3)
    with pytest.raises(ValueError, match=r"g\(\) takes \(p, \*, space\), expected it to take 1 argument: missing a"):
        call("own.py", "g", 1)
    assert call("own.py", "h", 1, 2) == (1, 2)
    (folder / "own2.py").write_text("def f(p):\n    return p + len()\n")  # a TypeError of its own keeps its place
    with pytest.raises(ValueError, match=r"f\(\) failed: own2\.py, line 2: TypeError: len\(\) takes exactly"):
        call("own2.py", "f", 1)


def test_a_function_may_be_cached_partial_or_an_object(folder):
    (folder / "own.py").write_text(
        "from functools import cache, lru_cache, partial\n"
        "from os.path import join\n"
        "from math import sqrt\n"
        "def add(a, b): return a + b\n"
        "@cache\ndef once(b): return add(1, b)\n"
        "@lru_cache(maxsize=2)\ndef few(b): return add(2, b)\n"
        "part = partial(add, 3)\n"
        "class Adder:\n    def __call__(self, b): return add(4, b)\n"
        "adder = Adder()\n"
        "root = partial(sqrt)\n"
    )
    assert [call("own.py", name, 10) for name in ("once", "few", "part", "adder")] == [11, 12, 13, 14]
    with pytest.raises(ValueError, match=r"part\(\) takes \(b\), expected it to take 2 arguments: too many"):
        call("own.py", "part", 1, 2)
    for imported in ("join", "sqrt", "root", "Adder"):  # classes and what others define are no functions of the module
        with pytest.raises(ValueError, match="expected add or once or few or part or adder"):
            call("own.py", imported, 1)


def test_a_reminder_is_logged_while_a_users_code_runs_long(folder, monkeypatch):
    """The module and its function end once the reminder has been logged."""
    monkeypatch.setattr(user_modules, "FIRST_REMINDER_S", 0.01)
    said = []

    class Answer(logging.Handler):
        def emit(self, record):
            said.append(record.getMessage())
            (folder / f"said{len(said)}").touch()

    handler = Answer()
    monkeypatch.setattr(user_modules.log, "handlers", [handler])
    wait = "while not Path('said{}').exists():\n    {}time.sleep(0.01)\n"
    text = f"import time\nfrom pathlib import Path\n{wait.format(1, '')}def f():\n    {wait.format(2, '    ')}"
    (folder / "slow.py").write_text(text)
    call("slow.py", "f")
    assert said[0] == "still waiting for slow.py to be imported; Ctrl-C stops"
    assert said[1] == "still waiting for 'slow.py': f() to return; Ctrl-C stops"


def test_a_module_may_remove_itself_from_the_table_of_modules(folder):
    (folder / "own.py").write_text("import sys\nruns = []\ndel sys.modules[__name__]\n")
    load("own.py").runs.append(1)
    assert load("own.py").runs == [1]


def test_a_module_that_replaces_itself_by_another_object_is_refused(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "own_stand_in.py").write_text("import sys\nsys.modules[__name__] = 3\n")
    with pytest.raises(ValueError, match="cannot import 'own_stand_in': it gives a value of type int; correct it"):
        load("own_stand_in")


def test_a_path_that_is_no_readable_file_is_refused_in_one_line(folder):
    (folder / "folder.py").mkdir()
    os.mkfifo(folder / "pipe.py")
    (folder / "device.py").symlink_to("/dev/zero")
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "nul.py").write_bytes(b"x = 1\0")
    (folder / "latin.py").write_bytes("x = 'é'\n".encode("latin-1"))
    with open(folder / "huge.py", "wb") as file:
        file.truncate(1 << 33)
    special = "is a folder, a device or a pipe, expected a .py file"
    for name, says in {
        "folder.py": special, "pipe.py": special, "device.py": special, "loop.py": "cannot be read",
        "nul.py": "null bytes", "latin.py": "SyntaxError", "huge.py": "has more than 16 MB",
        "a\0b.py": "it has a NUL character", "x" * 300 + ".py": "cannot be read", "nul.py/x.py": "cannot be read",
        "~nobody_here/x.py": "there is no home folder of that name",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=says) as error:
            load(name)
        assert "\n" not in str(error.value)
