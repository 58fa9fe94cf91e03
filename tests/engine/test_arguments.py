"""Tests what the command lines of all scripts have in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import arguments
from engine.arguments import add_allow_modules, parsed, parser_of, path_argument


@pytest.fixture
def parser():
    parser = parser_of("What it does.\n\n    as it is written", "door.py")
    parser.add_argument("config", type=path_argument)
    parser.add_argument("--out", type=path_argument)
    add_allow_modules(parser, "the file")
    parser.add_argument("overrides", nargs="*", default=[])
    return parser


def refused(parser, capsys, *given: str) -> str:
    with pytest.raises(SystemExit) as end:
        parsed(parser, given)
    assert end.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_tilde_that_begins_a_path_becomes_the_home_folder(parser, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    args = parsed(parser, ["~/a.yaml", "--out=~/runs", "data.root=~/x"])
    assert (args.config, args.out) == (tmp_path / "a.yaml", tmp_path / "runs")
    assert args.overrides == ["data.root=~/x"]  # the setting expands it later
    assert parsed(parser, ["a~b"]).config == Path("a~b")


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "got ''"), ("a\0b", r"got 'a\x00b'"), ("~nobody_here/x", "no home folder of that name")],
)
def test_a_text_that_cannot_be_a_path_is_a_usage_error(parser, capsys, text, says):
    line = refused(parser, capsys, "a.yaml", f"--out={text}")
    assert line.startswith("door.py: error: argument --out: ")
    assert says in line


def test_modules_are_allowed_by_name_or_path(parser):
    given = ["a.yaml", "--allow-modules", "my.ops", "sub/ops.py", "--out", "x", "--allow-modules", "/b.py"]
    assert parsed(parser, given).allow_modules == ["my.ops", "sub/ops.py", "/b.py"]
    assert parsed(parser, ["a.yaml"]).allow_modules == []


@pytest.mark.parametrize("text", ["data.root=/x", "runs/x", "a b", "", "a/b.json"])
def test_an_override_is_not_lost_among_modules(parser, capsys, text):
    """An override after --allow-modules could be taken for a module; the run would then go on without it."""
    assert "expected a dotted module or a path to a .py file" in refused(
        parser, capsys, "a.yaml", "--allow-modules", "ops.py", text
    )


def test_only_the_first_of_several_processes_prints_a_usage_error(parser, capsys, monkeypatch):
    monkeypatch.setattr(arguments, "SILENCE_S", 0.0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for rank, lines in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as end:
            parsed(parser, ["--no-such-option"])
        assert end.value.code == 2
        assert bool(capsys.readouterr().err) is lines
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # RANK alone is set by other programs too
    assert refused(parser, capsys, "--no-such-option")


def test_only_what_has_to_be_given_is_called_missing(parser, capsys):
    assert refused(parser, capsys).endswith("the following arguments are required: config")
    assert parsed(parser, ["a.yaml"]).overrides == []


@pytest.mark.parametrize(
    ("given", "end"),
    [
        (("--classes", "4"), "--classes 4; a setting is given without hyphens, as section.key=value, e.g. "
                             "space.classes=4"),
        (("--space.classes=4",), "as section.key=value, e.g. space.classes=4"),
        (("--outt", "x"), "--outt x. Did you mean '--out'?"),
        (("-x",), "unrecognized arguments: -x"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_by_the_one_that_was_meant_or_by_how_a_setting_is_given(
    parser, capsys, given, end
):
    assert refused(parser, capsys, "a.yaml", *given).endswith(end)
