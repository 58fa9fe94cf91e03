"""The YAML of configuration files: its numbers and texts, and values written so that they read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import config_text, load_config
from tests.engine.config_files import loaded, message_of, written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("300e6", 300e6),
        ("-2.5E+4", -2.5e4),
        ("+1e3", 1e3),
        (".5e1", 5.0),
        ("4.", 4.0),
        ("0.1", 0.1),
        ("12", 12),
        ("-3", -3),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1e3x", "1e3x"),
        ("50%", "50%"),
        ("'1e-3'", "1e-3"),
        ("cpu-1e-3", "cpu-1e-3"),
    ],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path, text, value):
    found = loaded(tmp_path, f"a: {text}\n")["a"]
    assert found == value
    assert type(found) is type(value)


def test_a_merge_key_takes_over_what_the_section_does_not_say(tmp_path):
    text = "base: &base {a: 1, b: 2}\nown:\n  <<: *base\n  b: 3\n"
    assert loaded(tmp_path, text)["own"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3:1", "key 'a' is given twice"),
        ("s:\n  a: 1\n  b: {c: 1, c: 2}\n", ":3:13", "key 'c' is given twice"),
        ("l:\n  - {x: 1}\n  - x: 1\n    x: 2\n", ":4:5", "key 'x' is given twice"),
        ("a: 1\n2: 3\n", ":2:1", "key '2' is not text; put it in quotes"),
        ("s: {on: 3}\n", ":1:5", "key 'on' is not text; put it in quotes"),
        ("s: {null: 3}\n", ":1:5", "key 'null' is not text"),
        ("? [a, b]\n: 3\n", ":1:3", "is not text"),
        ("a: b: c\n", ":1:5", "mapping values are not allowed here; check the indentation, colons"),
        ("a: 1\n  b: 2\n", ":2:4", "mapping values are not allowed here"),
        ("a:\n\tb: 1\n", ":2:1", "indent with spaces"),
        ("a: [1, 2\nb: 3\n", ":2:2", "flow sequence that begins in line 1"),
        ("a: 'text\nb: 3\n", ":3:1", "quoted scalar that begins in line 1"),
        ("a: 1\n b\n- c\n", ":3:1", ""),
        ("a: *nowhere\n", ":1:4", "undefined alias"),
        ("a: !!python/name:os.system x\n", ":1:4", "could not determine a constructor"),
        ("a: &x [*x]\n", "", "recursive"),
        ("a: 1\n---\nb: 2\n", ":2:1", "document"),
    ],
)
def test_a_mistake_in_yaml_is_named_with_line_and_column(tmp_path, text, place, words):
    message = message_of(loaded, tmp_path, text)
    assert message.startswith(f"{tmp_path / 'a.yaml'}{place}")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty, expected a mapping of sections"),
        ("# nothing but a comment\n", "is empty, expected a mapping"),
        ("just text\n", "got 'just text', expected a mapping"),
        ("- a\n- b\n", "got [a, b], expected a mapping"),
        ("3\n", "got 3, expected a mapping"),
        ("a: 2026-13-45\n", "not YAML: month must be in 1..12"),
    ],
)
def test_a_file_without_sections_is_an_error(tmp_path, text, words):
    message = message_of(loaded, tmp_path, text)
    assert message.startswith(f"{tmp_path / 'a.yaml'}: {words}")


def test_files_that_cannot_be_read_say_why(tmp_path):
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert message_of(load_config, tmp_path / "no.yaml").endswith("no.yaml: no such file; expected a YAML file")
    assert message_of(load_config, tmp_path) == f"{tmp_path}: is a folder; expected a YAML file"
    assert message_of(load_config, binary) == f"{binary}: is not UTF-8 text; expected a YAML file"
    binary.write_bytes(b"a: \x00\n")
    assert message_of(load_config, binary).startswith(f"{binary}: not YAML: unacceptable character")
    assert "cannot be read" in message_of(load_config, written(tmp_path / "file", "") / "below.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    assert loaded(tmp_path, "\ufeffa: 1\n") == {"a": 1}


def test_config_text_reads_back_to_the_same_values(tmp_path):
    shared = [0.1, 1e-3]
    config = {
        "floats": [1e-3, 4e-05, 0.1 + 0.2, 3e8, 1e22, 5e-324, 300.0],
        "texts": ["1e-3", "50%", "1.2.3", "yes", "null", "", "12", "a: b", "é ü 日", "2026-01-31", " x ", "#"],
        "rest": {"none": None, "yes": True, "empty": {}, "list": [], "one": shared, "two": shared},
        "long": "word " * 60 + "end",
    }
    text = config_text(config)
    assert loaded(tmp_path, text) == config
    assert "&id" not in text


def test_config_text_takes_paths_and_tuples(tmp_path):
    values = {"items": ({"width": 2, "name": "1e-3"},), "where": Path("a/b")}
    expected = {"items": [{"width": 2, "name": "1e-3"}], "where": "a/b"}
    assert loaded(tmp_path, config_text(values)) == expected


@pytest.mark.parametrize("text", ["a: " + "[" * 5000 + "]" * 5000, "a: " + "{b: " * 5000 + "1" + "}" * 5000])
def test_endless_nesting_is_an_error_not_a_traceback(tmp_path, text):
    assert message_of(loaded, tmp_path, text).endswith("has too many brackets or sections inside each other")
    assert message_of(loaded, tmp_path, "b: 1", text.replace(": ", "=", 1)).endswith("is not a YAML value")
