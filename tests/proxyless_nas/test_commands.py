"""The subcommands of `proxyless-nas`: their help, their scripts, and the completion of shells."""

from __future__ import annotations

import argparse
import ast
import subprocess
from pathlib import Path

import pytest

from proxyless_nas.commands import COMMANDS, main, run
from proxyless_nas.commands.base import Command
from tests import light_commands

CHECKOUT = Path(__file__).resolve().parents[2]
ALL = {
    words: command
    for name, entry in COMMANDS.items()
    for words, command in (
        [(name, entry)] if isinstance(entry, Command) else [(f"{name} {word}", c) for word, c in entry.items()]
    )
}
SCRIPTS = {
    "quickstart": "quickstart", "ship": "ship",
    "measure_latency": "measure", "fit_latency": "fit", "import_latency": "import",
    "device_kit": "kit", "check_search": "check", "run_search": "search", "derive": "derive", "run_sweep": "sweep",
    "run_retrain": "retrain", "evaluate": "evaluate", "compare": "compare", "export_model": "export",
    "time_files": "time",
}  # fmt: skip


@pytest.fixture(scope="module")
def answer(shell):
    """answer("search --help"): the exit status, the slow modules that were imported, and what was printed."""
    calls = [
        f"{words} {option}".strip() for words in ("", *COMMANDS, *ALL) for option in ("--help", "--no-such-option")
    ]
    calls += ["serch", "kit exprot", "--version", "", "kit"]
    found = light_commands.answers(light_commands.COMMAND, [call.split() for call in calls], shell)
    return dict(zip(calls, found, strict=True)).__getitem__


@pytest.mark.parametrize("words", ALL)
def test_help_has_an_example_and_imports_nothing_heavy(words, answer):
    status, heavy, text = answer(f"{words} --help")
    assert (status, heavy) == (0, [])
    assert text.startswith(f"usage: proxyless-nas {words} ")
    assert f"\n    proxyless-nas {words}" in text


@pytest.mark.parametrize("words", ALL)
def test_a_mistyped_option_is_answered_at_once(words, answer):
    status, heavy, text = answer(f"{words} --no-such-option")
    assert (status, heavy) == (2, [])
    assert "error: " in text


def test_the_list_of_commands_has_each_with_its_summary(answer):
    status, heavy, text = answer("--help")
    assert (status, heavy) == (0, [])
    for words, command in ALL.items():
        where = text if words in COMMANDS else answer(f"{words.split()[0]} --help")[2]
        assert f"  {words.split()[-1]} " in where
        assert command.summary in where


@pytest.mark.parametrize("words", ["", "kit"])
def test_a_name_alone_prints_what_its_help_prints(words, answer):
    assert answer(words) == (2, *answer(f"{words} --help".strip())[1:])


def test_a_mistyped_command_is_one_line_with_the_nearest(answer):
    assert answer("serch")[0] == answer("kit exprot")[0] == 2
    assert "got 'serch', expected quickstart, ship, measure, " in answer("serch")[2]
    assert answer("serch")[2].endswith("Did you mean 'search'?\n")
    assert answer("kit exprot")[2].endswith("expected export, adb, import. Did you mean 'export'?\n")
    assert answer("--version")[2].startswith("proxyless-nas ")


def test_each_script_is_a_few_lines_and_runs_a_command():
    """A script has a docstring, an import, and a call with the name of its subcommand, and nothing else."""
    found = {}
    for path in (CHECKOUT / "scripts").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 6, path
        (call,) = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        found[path.stem] = call.args[0].value
    assert found == SCRIPTS
    assert set(found.values()) <= COMMANDS.keys()


def test_a_script_prints_what_its_command_prints(door, checkout, capsys, monkeypatch):
    """The usage line has the script's name; all else is the same."""
    from proxyless_nas.commands import main

    for script, words in SCRIPTS.items():
        call = [words, "export"] if words == "kit" else [words]
        with pytest.raises(SystemExit):
            main([*call, "--help"])
        of_command = capsys.readouterr().out
        of_script = door(script, *call[1:], "--help").out
        assert of_script.startswith(f"usage: {script}.py ")
        assert of_script.partition("\n\n")[2].split() == of_command.partition("\n\n")[2].split()


@pytest.mark.parametrize("shell_name", ["bash", "zsh"])
def test_the_completion_knows_commands_options_and_configurations(shell_name, capsys):
    from proxyless_nas.commands import main

    with pytest.raises(SystemExit) as end:
        main(["completion", shell_name])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for word in ("search", "export", "--resume", "--recalibrate", "imagenet_cpu"):
        assert word in text
    if shell_name == "bash":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("words", ["measure own", "fit own t.csv", "import own.yaml", "kit import kit results.json"])
def test_the_file_of_a_table_has_an_ending(words, capsys, tmp_path, monkeypatch):
    """A file called tables would be in the way of the folder tables/ of the next command."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--out", "tables"])
    assert ended.value.code == 2
    assert "argument --out: got 'tables', expected the table's file, e.g. tables/table.yaml" in capsys.readouterr().err


def test_ctrl_c_while_the_words_of_a_command_are_read_is_one_line(capsys):
    def interrupted(_: argparse.ArgumentParser) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run(Command("Does nothing:", interrupted, lambda _: None), [], "nothing")
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
