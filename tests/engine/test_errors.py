"""Errors that a user can mend are one line and an exit status."""

from __future__ import annotations

import pytest

from engine.errors import CheckpointError, ConfigError, UserError, explain, run_door


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
        run_door(main)
    assert end.value.code == status
    captured = capsys.readouterr()
    assert captured.err == err
    assert captured.out == ""


def test_an_interrupted_script_that_knows_how_to_resume_says_so(capsys):
    with pytest.raises(SystemExit) as end:
        run_door(raising(KeyboardInterrupt()), resumable=True)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted; continue with --resume\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_door(raising(ZeroDivisionError()))
