"""Configuration files are read by the rules of YAML 1.2, within bounds, and written so that they read back."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import yaml

from engine.config import config_text, load_config
from engine.yaml_dialect import MOST_CHARACTERS, MOST_NODES, Loader
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
        ("010", 10),
        ("0042", 42),
        ("08", 8),
        ("+12", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("0o8", "0o8"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("On", "On"),
        ("n", "n"),
        ("off", "off"),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31 12:30:00", "2026-01-31 12:30:00"),
        ("2026-13-45", "2026-13-45"),
        ("0:30", "0:30"),
        ("=", "="),
        ("1.2.3", "1.2.3"),
        ("1e", "1e"),
        ("e3", "e3"),
        ("1e3x", "1e3x"),
        ("50%", "50%"),
        ("'1e-3'", "1e-3"),
        ("cpu-1e-3", "cpu-1e-3"),
    ],
)
def test_a_scalar_is_read_by_the_rules_of_yaml_1_2(tmp_path, text, value):
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
        ("s: {true: 3}\n", ":1:5", "key 'true' is not text; put it in quotes"),
        ("s: {12:30: 3}\n", ":1:5", "key '12:30' is not text; put it in quotes"),
        (
            "s: {below: 12:30}\n",
            ":1:12",
            "below: '12:30' is no number; YAML 1.1 read it as 750; write the number in full",
        ),
        ("s:\n  lr: 1:30.5\n", ":2:7", "lr: '1:30.5' is no number; YAML 1.1 read it as 90.5; write the number in full"),
        ("s: [-1:00:00]\n", ":1:5", "'-1:00:00' is no number; YAML 1.1 read it as -3600"),
        ("s: {lr: 0,01}\n", ":1:9", "'0,01' is no number; write 0.01, or 001 without the"),
        ("s: {at: 1,000, b: 2}\n", ":1:9", "'1,000' is no number; write 1.000, or 1000 without the comma"),
        ("s: {a: 1, 2}\n", ":1:11", "key '2' is not text; put it in quotes"),
        ("a: !!int x\n", ":1:4", "the tag !!int does not fit this value"),
        ("a: !!bool yes\n", ":1:4", "the tag !!bool does not fit this value"),
        ("a: !!timestamp x\n", ":1:4", "could not determine a constructor"),
        ("a: !!binary x\n", ":1:4", "could not determine a constructor"),
        (f"a: {'1' * 5000}\n", ":1:4", "a whole number of 5000 digits, expected at most 400"),
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
    ],
)
def test_a_file_without_sections_is_an_error(tmp_path, text, words):
    message = message_of(loaded, tmp_path, text)
    assert message.startswith(f"{tmp_path / 'a.yaml'}: {words}")


def test_files_that_cannot_be_read_say_why(tmp_path):
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert message_of(load_config, tmp_path / "no.yaml").endswith("no.yaml: no such file, expected a YAML file")
    assert message_of(load_config, tmp_path).startswith(f"{tmp_path}: is a folder, expected a YAML file or a name")
    assert message_of(load_config, binary) == f"{binary}: is not UTF-8 text, expected a YAML file"
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


def test_numbers_of_the_files_that_yaml_1_1_read_otherwise(tmp_path):
    """A seed with leading zeros was read in base 8, a time of day in base 60."""
    text = "run: {seed: 0042}\nsearch: {epochs: 010}\nat: 050\n"
    assert loaded(tmp_path, text, "run.more=0042") == {
        "run": {"seed": 42, "more": 42},
        "search": {"epochs": 10},
        "at": 50,
    }
    for value, number in (("12:30", "750"), ("1:30.5", "90.5")):
        for message in (
            message_of(loaded, tmp_path, f"at: {value}"),
            message_of(loaded, tmp_path, "a: 1", f"at={value}"),
        ):
            assert f"'{value}' is no number; YAML 1.1 read it as {number}; write the number in full" in message


def random_text(draw: random.Random) -> str:
    """Returns a text of pieces that look like other types, or of any characters that YAML may hold."""
    pieces = [
        "1",
        "0",
        "_",
        ".",
        "e",
        "E",
        "+",
        "-",
        ":",
        "0x",
        "0o",
        "0b",
        "true",
        "Yes",
        "no",
        "on",
        "null",
        "~",
        "<<",
        "=",
    ]
    pieces += [
        ".inf",
        ".NaN",
        " ",
        "#",
        "'",
        '"',
        "{",
        "]",
        "&a",
        "*a",
        "!",
        "%",
        "@",
        "|",
        ">",
        "\n",
        "\t",
        "é",
        "日",
        "😀",
        "\x85",
        "\u2028",
        "\r",
        "\x1b",
    ]
    return "".join(draw.choices(pieces, k=draw.randrange(6)))


def test_every_text_reads_back_as_itself():
    """What Dumper leaves without quotes, Loader reads as text, and what Loader would refuse or read as another type is
    in quotes."""
    draw = random.Random(0)
    texts = sorted({random_text(draw) for _ in range(4000)})
    assert yaml.load(config_text({"texts": texts, **dict.fromkeys(texts, 1)}), Loader=Loader) == {
        "texts": texts,
        **dict.fromkeys(texts, 1),
    }


@pytest.mark.parametrize(
    "text", ["1e-3", "0042", "0o17", "0x1F", "12:30", "1:30.5", "true", "~", "", ".inf", "<<", "-1"]
)
def test_a_text_that_would_be_another_type_is_quoted(text):
    assert config_text({"a": text}) == f"a: '{text}'\n"


@pytest.mark.parametrize("text", ["yes", "on", "1_000", "0b1", "2026-01-31", "0:30", "50%", "x"])
def test_a_text_that_is_text_in_yaml_1_2_is_not_quoted(text):
    assert config_text({"a": text}) == f"a: {text}\n"


def test_config_text_takes_paths_and_tuples(tmp_path):
    values = {"items": ({"width": 2, "name": "1e-3"},), "where": Path("a/b")}
    expected = {"items": [{"width": 2, "name": "1e-3"}], "where": "a/b"}
    assert loaded(tmp_path, config_text(values)) == expected


@pytest.mark.parametrize("text", ["a: " + "[" * 5000 + "]" * 5000, "a: " + "{b: " * 5000 + "1" + "}" * 5000])
def test_endless_nesting_is_an_error_not_a_traceback(tmp_path, text):
    assert message_of(loaded, tmp_path, text).endswith("has too many brackets or sections inside each other")
    assert message_of(loaded, tmp_path, "b: 1", text.replace(": ", "=", 1)).endswith("is not a YAML value")


def bomb(levels: int, width: int) -> str:
    """width ** levels values once the aliases are written out, in a few hundred characters."""
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(["a0: &a0 [1]", *lists])


def merge_bomb(levels: int, width: int) -> str:
    sections = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}]}}" for i in range(1, levels)]
    return "\n".join(["a0: &a0 {k: 1}", *sections])


@pytest.mark.parametrize(
    "text",
    [
        bomb(30, 9),
        merge_bomb(30, 9),
        f"a: &a '{'x' * 1_000_000}'\nb: [{', '.join(['*a'] * 100)}]",
        f"a: [{'1,' * (MOST_NODES + 1)}]",
        "\n".join(f"k{i}: {i}" for i in range(MOST_NODES // 2 + 1)),
    ],
    ids=["aliases", "merges", "long texts", "a list", "keys"],
)
def test_more_values_than_any_configuration_has_are_refused(tmp_path, text):
    """2 ** 95 values would not fit into any memory, so that a message proves that they are not made."""
    assert message_of(loaded, tmp_path, text).endswith(f"has more than {MOST_NODES} values, each *alias written out")


def test_aliases_and_merges_below_the_bound_are_read(tmp_path):
    assert loaded(tmp_path, bomb(4, 9))["a3"] == [[[[1]] * 9] * 9] * 9
    assert loaded(tmp_path, merge_bomb(4, 9))["a3"] == {"k": 1}


def test_a_bomb_in_an_override_is_refused(tmp_path):
    text = (
        "a=[&a [x, x], "
        + ", ".join(f"&{b} [{', '.join(['*' + a] * 9)}]" for a, b in zip("abcde", "bcdef", strict=True))
        + "]"
    )
    assert "values, each *alias written out" in message_of(loaded, tmp_path, "b: 1", text)
    assert "more than 30000 characters" in message_of(loaded, tmp_path, "b: 1", f"a=[{'1,' * 1_000_000}]")


def test_a_file_of_many_megabytes_is_refused(tmp_path):
    assert "more than 2 million characters" in message_of(loaded, tmp_path, f"a: {'x' * (MOST_CHARACTERS + 1)}")


@pytest.mark.parametrize("text", ["- " * 3000, "? " * 3000, '{"a": ' * 3000, "[" * 3000 + "]" * 3000])
def test_nesting_of_every_kind_is_bounded(tmp_path, text):
    assert message_of(loaded, tmp_path, text).endswith("has too many brackets or sections inside each other")


def test_a_hundred_levels_are_read_and_written(tmp_path):
    text = "a: " + "[" * 98 + "]" * 98
    config = loaded(tmp_path, text)
    assert loaded(tmp_path, config_text(config)) == config
    assert message_of(loaded, tmp_path, "a: " + "[" * 100 + "]" * 100).endswith("inside each other")


def test_json_may_be_indented_by_tabs(tmp_path):
    """YAML forbids them; what follows a JSON mistake in such a file is JSON's complaint."""
    assert loaded(tmp_path, '{\n\t"a": {\n\t\t"b": [1, 2.5, true, null, "x"]\n\t}\n}') == {
        "a": {"b": [1, 2.5, True, None, "x"]}
    }
    assert "not JSON: Expecting" in message_of(loaded, tmp_path, '{\n\t"a": [1,\n}')


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: 1\n".encode("utf-16"), "is not UTF-8 text"),
        ("a: 1\n".encode("utf-16-le"), "not YAML: unacceptable character #x0000"),
        ("a: café\n".encode("latin-1"), "is not UTF-8 text"),
    ],
)
def test_other_encodings_than_utf_8_are_refused(tmp_path, content, words):
    (tmp_path / "a.yaml").write_bytes(content)
    assert words in message_of(load_config, tmp_path / "a.yaml")


def test_line_ends_of_windows_are_read(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: [x,\r\n  y]\r\n")
    assert load_config(tmp_path / "a.yaml") == {"a": 1, "b": ["x", "y"]}
