"""Files of whole-network timings: what is read, and what is refused in one line."""

from __future__ import annotations

import json
import re

import pytest

from engine.errors import UserError
from latency.plan import uniform_networks
from latency.timings import TimingsError, read_timings
from supernet.architecture import Architecture


def test_a_csv_and_a_json_say_the_same(small_space, tmp_path):
    """Names of all edges, or the file of an architecture beside the timings; further columns are for the reader."""
    networks = uniform_networks(small_space)[:4]
    own = [Architecture(small_space, paths) for paths in networks]
    (tmp_path / "a.json").write_text(own[0].to_json())
    names = ["a.json", *(" ".join(a.names) for a in own[1:])]
    lines = [f"{i},{ms},note {i}" for i, ms in zip(names, (1.5, 2, 3e-1, 40), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["architecture,ms,note", *lines]) + "\n")
    rows = [{"architecture": "a.json", "ms": 1.5}]
    rows += [{"architecture": list(a.names), "ms": ms} for a, ms in zip(own[1:], (2, 0.3, 40), strict=True)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    expected = list(zip(networks, (1.5, 2, 0.3, 40), strict=True))
    assert read_timings(tmp_path / "t.csv", small_space) == expected
    assert read_timings(tmp_path / "t.json", small_space) == expected


def test_what_a_spreadsheet_writes_is_read(small_space, tmp_path):
    """A mark before the header, quoted cells, other line ends."""
    names = " ".join(Architecture(small_space, uniform_networks(small_space)[0]).names)
    (tmp_path / "t.csv").write_bytes(f'\ufeff"architecture","ms"\r\n"{names}","1.5"\r\n'.encode())
    assert read_timings(tmp_path / "t.csv", small_space) == [(uniform_networks(small_space)[0], 1.5)]


def test_a_header_may_have_spaces_and_capitals(small_space, tmp_path):
    names = " ".join(Architecture(small_space, uniform_networks(small_space)[0]).names)
    (tmp_path / "t.csv").write_text(f"Architecture, MS\n{names}, 1.5\n\n")
    assert read_timings(tmp_path / "t.csv", small_space) == [(uniform_networks(small_space)[0], 1.5)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "architecture;ms\nNAMES;1\n", "separate columns by commas"),
        ("t.csv", "architecture,ms\nNAMES,1\nNAMES,1,5\n", "t.csv:3: has more values than the header has columns"),
        ("t.csv", "architecture,ms\nNAMES\n", "t.csv:2: has 1 values, expected 2"),
        ("t.csv", "architecture,ms\nNAMES,inf\n", "t.csv:2: ms is 'inf'"),
        ("t.csv", "architecture,ms\nNAMES,0\n", "t.csv:2: ms is '0'"),
        ("t.csv", "architecture,ms\n,1\n", "t.csv:2: paths: got 0 names"),
        ("t.csv", "architecture,ms\nbinary.json,1\n", "binary.json cannot be read (not UTF-8 text)"),
        ("t.csv", "architecture,ms\nempty.json,1\n", "empty.json"),
        ("t.json", '[{"architecture": 3, "ms": 1}]', "entry 0: architecture is '3', expected candidate names"),
        ("t.json", '[{"architecture": ["x", 1], "ms": 1}]', "entry 0: architecture is"),
        ("t.json", '[{"architecture": "NAMES", "ms": true}]', "entry 0: ms is True"),
        ("t.json", '[{"architecture": "NAMES", "ms": null}]', "entry 0: ms is None"),
        ("t.json", '[{"architecture": "NAMES", "ms": NaN}]', "entry 0: ms is nan"),
        (
            "t.json",
            '[{"architecture": "NAMES", "ms": 1, "note": "x"}]',
            "entry 0: expected the keys architecture and ms",
        ),
        ("t.json", "[1]", "entry 0: expected the keys"),
    ],
)
def test_a_wrong_file_is_one_line(name, text, words, small_space, tmp_path):
    names = " ".join(Architecture(small_space, uniform_networks(small_space)[0]).names)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / name).write_text(text.replace("NAMES", names))
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read_timings(tmp_path / name, small_space)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read(content, small_space, tmp_path):
    if content:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(TimingsError, match=r"t\.csv: cannot be read \((No such file|not UTF-8)"):
        read_timings(tmp_path / "t.csv", small_space)
