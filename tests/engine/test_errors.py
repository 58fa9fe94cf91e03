"""Errors that a user can mend are one line and an exit status."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

from engine.errors import Action, CheckpointError, ConfigError, InvalidError, UserError, explain, run_command


def test_explain_says_where_a_value_error_came_from():
    with pytest.raises(ConfigError, match=r"^a\.yaml: space: too\s+wide$") as error, explain("a.yaml: space"):
        raise ValueError("too\n  wide")
    assert isinstance(error.value.__cause__, ValueError)


def test_explain_leaves_other_errors_alone():
    with pytest.raises(CheckpointError, match=r"^damaged$"), explain("a.yaml"):
        raise CheckpointError("damaged")
    with pytest.raises(KeyError), explain("a.yaml"):
        raise KeyError("a bug")
    with explain("a.yaml"):
        pass


def test_the_text_of_an_error_joins_its_parts_in_one_order():
    action = Action("measure", ("a b.yaml", "--out", "t.yaml"))
    error = ConfigError("a.yaml: lr", "got 'x'", "a number", "write 1", suggestion="y", note="+2 more", action=action)
    assert str(error) == "a.yaml: lr: got 'x', expected a number. Did you mean 'y'?; write 1 (+2 more)"
    assert error.problem == "a.yaml: lr: got 'x', expected a number"
    assert error.what_to_do == "Did you mean 'y'?; write 1: proxyless-nas measure 'a b.yaml' --out t.yaml"
    assert error.with_command == (
        "a.yaml: lr: got 'x', expected a number. Did you mean 'y'?; write 1: "
        "proxyless-nas measure 'a b.yaml' --out t.yaml (+2 more)"
    )


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"where": "a.yaml"}, "a.yaml"),
        ({"found": "is damaged"}, "is damaged"),
        ({"where": "a", "expected": "b"}, "a: expected b"),
        ({"where": "a", "remedy": "copy it"}, "a; copy it"),
        ({"found": "no a", "suggestion": ["b", "c"]}, "no a. Did you mean 'b' or 'c'?"),
        ({"where": "a", "found": "b", "note": "c"}, "a: b (c)"),
    ],
)
def test_a_part_that_is_not_given_leaves_no_trace_in_the_text(parts, text):
    assert str(UserError(**parts)) == text


def test_an_error_keeps_its_class_and_parts_when_an_outer_place_is_added_or_it_is_sent_to_another_process():
    error = CheckpointError("step 3", "is damaged", remedy="delete it", action=Action("search"))
    outer = error.within("runs/a")
    assert (type(outer), outer.where, outer.action) == (CheckpointError, "runs/a: step 3", error.action)
    assert error.where == "step 3"
    copied = pickle.loads(pickle.dumps(outer))
    assert (type(copied), copied.with_command) == (CheckpointError, outer.with_command)


def test_explain_keeps_the_parts_of_a_wrong_value():
    with pytest.raises(ConfigError) as caught, explain("a.yaml"):
        raise InvalidError("space.stem", "got 'x'", "a section", suggestion="y")
    error = caught.value
    assert (error.where, error.found, error.expected) == ("a.yaml: space.stem", "got 'x'", "a section")
    assert error.suggestions == ("y",)


@pytest.mark.parametrize("kind", [UserError, ConfigError, CheckpointError])
def test_a_message_is_one_line(kind):
    assert str(kind("one\n two\t three ")) == "one two three"


def raising(error: BaseException):
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "err"),
    [
        (raising(ConfigError("a.yaml: wrong\nkey")), 2, "error: a.yaml: wrong key\n"),
        (raising(CheckpointError("damaged")), 2, "error: damaged\n"),
        (raising(KeyboardInterrupt()), 130, "interrupted\n"),
        (lambda: None, 0, ""),
        (lambda: 0, 0, ""),
        (lambda: 3, 3, ""),
    ],
)
def test_a_door_exits_with_a_status_and_at_most_one_line(main, status, err, capsys):
    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == status
    captured = capsys.readouterr()
    assert captured.err == err
    assert captured.out == ""


def test_a_ctrl_c_while_a_class_is_made_is_no_bug(capsys):
    """Python 3.11 turns what __set_name__ raises into a RuntimeError; a newer one adds a note to it."""

    class Interrupting:
        def __set_name__(self, owner: type, name: str) -> None:
            raise KeyboardInterrupt

    def main() -> None:
        type("Importing", (), {"field": Interrupting()})

    with pytest.raises(SystemExit) as end:
        run_command(main)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(RuntimeError, match="a bug"):
        run_command(raising(RuntimeError("a bug")))


def test_an_interrupted_script_that_knows_how_to_resume_says_so(capsys):
    with pytest.raises(SystemExit) as end:
        run_command(raising(KeyboardInterrupt()), resumable=True)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted; continue with --resume\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


DOOR = """
import errno, os, sys
from engine.errors import UserError, run_command

def main():
    case = sys.argv[1]
    if case == "lines":
        for i in range(100_000):
            print(i)
    elif case == "line":
        print("one")
    elif case == "words":
        print("é \\udcff ☃")
        raise UserError("é \\udcff ☃")
    elif case == "other pipe":
        read, write = os.pipe()
        os.close(read)
        os.write(write, b"x")
    elif case == "memory":
        raise MemoryError("Unable to allocate 8 EiB")
    else:
        raise OSError(errno.EMFILE, "Too many open files", "é\\n.yaml")

run_command(main)
"""


@pytest.fixture
def in_shell(tmp_path, shell):
    """in_shell("line", "> /dev/full"): (status, stdout, stderr) of the above door, its output led there by a shell."""
    (tmp_path / "door.py").write_text(DOOR)

    def run(case: str, redirection: str = "", **environment: str) -> tuple[int, str, str]:
        line = f'set -o pipefail; "$0" door.py "$1" {redirection}'
        ended = subprocess.run(
            ["bash", "-c", line, sys.executable, case], cwd=tmp_path, env=shell | environment,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return ended.returncode, ended.stdout, ended.stderr

    return run


@pytest.mark.parametrize(("case", "redirection", "out"), [("lines", "| head -n 1", "0\n"), ("line", "| true", "")])
def test_a_script_whose_output_nobody_reads_ends_without_a_message(in_shell, case, redirection, out):
    status, printed, err = in_shell(case, redirection)
    assert (printed, err) == (out, "")
    assert status in (0, 141)  # 0 where the reader was still there when the line came


def test_another_broken_pipe_is_a_bug(in_shell):
    assert in_shell("other pipe")[2].endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


@pytest.mark.parametrize(
    ("case", "redirection", "err"),
    [
        ("line", "> /dev/full", "error: No space left on device; make room\n"),
        ("memory", "", "error: not enough memory Unable to allocate 8 EiB; close other programs, or ask for less\n"),
        ("files", "", "error: é .yaml: Too many open files; raise the limit of open files (ulimit -n)\n"),
        ("files", "2>&-", ""),
        ("files", "2> /dev/full", ""),
    ],
)
def test_what_the_system_refuses_is_one_line(in_shell, case, redirection, err):
    assert in_shell(case, redirection) == (2, "", err)


def test_a_closed_output_is_no_failure(in_shell):
    assert in_shell("line", ">&-") == (0, "", "")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"\xe9 \udcff \u2603"), ("utf-8", "é \\udcff ☃"), ("ascii:strict", r"\xe9 \udcff \u2603")],
)
def test_what_a_terminal_cannot_show_is_escaped(in_shell, encoding, shown):
    assert in_shell("words", PYTHONIOENCODING=encoding) == (2, f"{shown}\n", f"error: {shown}\n")
