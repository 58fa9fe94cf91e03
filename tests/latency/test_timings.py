"""Files of whole-network timings: those that are read, and those that are refused in one line."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest

from engine.errors import UserError
from latency.plan import uniform_networks
from latency.timings import TimingsError, read_timings, time_networks
from supernet.architecture import Architecture


def test_a_csv_and_a_json_give_the_same_timings(small_space, tmp_path):
    """An architecture is given by the candidates of all edges, or by a file beside the timings; further columns are
    ignored."""
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


def test_a_file_that_a_spreadsheet_wrote_is_read(small_space, tmp_path):
    """It has a mark before the header, quoted cells and other line ends."""
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
        ("t.csv", "architecture,ms\nbinary.json,1\n", "binary.json: is not UTF-8 text"),
        ("t.csv", "architecture,ms\nempty.json,1\n", "empty.json"),
        ("t.json", '[{"architecture": 3, "ms": 1}]', "entry 0: architecture is '3', expected candidate names"),
        ("t.json", '[{"architecture": ["x", 1], "ms": 1}]', "entry 0: architecture is"),
        ("t.json", '[{"architecture": "NAMES", "ms": true}]', "entry 0: ms is True"),
        ("t.json", '[{"architecture": "NAMES", "ms": null}]', "entry 0: ms is None"),
        ("t.json", '[{"architecture": "NAMES", "ms": NaN}]', "not JSON: NaN is not a finite number"),
        ("t.json", '[{"architecture": "NAMES", "ms": 1e999}]', "not JSON: 1e999 is not a finite number"),
        ("t.json", '[{"architecture": "NAMES", "ms": "1.5"}]', "entry 0: ms is '1.5', expected milliseconds above 0"),
        ("t.json", '[{"architecture": "NAMES", "ms": 1e10}]', "entry 0: ms is 10000000000.0, expected milliseconds"),
        ("t.json", '[{"architecture": "NAMES", "ms": 1, "ms": 2}]', "not JSON: key 'ms' is given twice"),
        ("t.json", "[" * 3000 + "]" * 3000, "has too many brackets inside each other"),
        ("t.csv", "architecture,ms,ms\nNAMES,1,2\n", "t.csv: line 1 names the column 'ms' twice"),
        ("t.csv", "architecture,ms, MS\nNAMES,1,2\n", "t.csv: line 1 names the column 'ms' twice"),
        ("t.csv", "architecture,ms\nNAMES,1_000\n", "t.csv:2: ms is '1_000'"),
        ("t.csv", "architecture,ms\nNAMES,١\n", "t.csv:2: ms is '١'"),
        ("t.csv", "architecture,ms\nNAMES,true\n", "t.csv:2: ms is 'true'"),
        ("t.csv", "architecture,ms\nNAMES,-1\n", "t.csv:2: ms is '-1'"),
        ("t.csv", "architecture,ms\nNAMES,1e999\n", "t.csv:2: ms is '1e999'"),
        ("t.csv", f"architecture,ms\n{'x' * 2_000_000},1\n", "t.csv:2: not CSV: field larger than field limit"),
        ("t.csv", 'architecture,ms\n"NAMES,1\n', "t.csv:2: not CSV: unexpected end of data; check the quotes"),
        ("t.csv", f"{'x' * 2000},ms\n", "expected a header with the columns architecture and ms"),
        (
            "t.json",
            '[{"architecture": "NAMES", "ms": 1, "note": "x"}]',
            "note: x}, expected the keys architecture and ms",
        ),
        ("t.json", "[1]", "entry 0: got 1, expected the keys architecture and ms"),
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
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_refused(content, small_space, tmp_path):
    if content:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(TimingsError, match=r"t\.csv: (no such file|is not UTF-8 text), expected a"):
        read_timings(tmp_path / "t.csv", small_space)


def test_a_cell_may_be_longer_than_the_csv_module_reads_by_itself(small_space, tmp_path):
    """Its limit, 131,072 characters, is that of a process; a later reader finds it as it was."""
    names = " ".join(Architecture(small_space, uniform_networks(small_space)[0]).names)
    (tmp_path / "t.csv").write_text(f"architecture,ms,note\n{names},1.5,{'x' * 200_000}\n")
    before = csv.field_size_limit()
    assert read_timings(tmp_path / "t.csv", small_space) == [(uniform_networks(small_space)[0], 1.5)]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["/dev/zero", "loop.csv", "folder.csv"])
def test_a_folder_a_pipe_or_a_loop_of_links_is_refused(name, small_space, tmp_path):
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TimingsError, match=r"a device or a pipe|symbolic links|is a folder"):
        read_timings(tmp_path / name, small_space)


def test_columns_without_a_name_may_repeat(small_space, tmp_path):
    """Spreadsheets write them to the right of a table."""
    names = " ".join(Architecture(small_space, uniform_networks(small_space)[0]).names)
    (tmp_path / "t.csv").write_text(f"architecture,ms,,\n{names},1.5,,\n")
    assert read_timings(tmp_path / "t.csv", small_space) == [(uniform_networks(small_space)[0], 1.5)]


def test_networks_that_a_function_has_timed_are_not_timed_again(small_space, tmp_path):
    """Interrupted in the fifth network, the same call goes on with it; the file holds every candidate of every edge."""
    calls, file = [], tmp_path / "board.csv"

    def ms_of(architecture):
        if len(calls) == 4:
            calls.append("interrupted")
            raise KeyboardInterrupt
        calls.append(architecture.paths)
        return np.float32(1 + architecture.complexity.macs / 1e6)

    with pytest.raises(KeyboardInterrupt):
        time_networks(ms_of, small_space, file, networks=12)
    assert len(read_timings(file, small_space)) == 4
    time_networks(ms_of, small_space, file, networks=12)
    timed = [paths for paths in calls if paths != "interrupted"]
    assert len(timed) == len(set(timed)) == 12
    for paths, ms in read_timings(file, small_space):
        assert ms == pytest.approx(1 + Architecture(small_space, paths).complexity.macs / 1e6, rel=1e-6)
    for e, edge in enumerate(small_space.searchable):
        assert {paths[e] for paths in timed} == set(range(len(edge.candidates)))
    time_networks(ms_of, small_space, file, networks=12)
    assert len(calls) == 13


@pytest.mark.parametrize("value", [None, "3", 0, -1.0, float("nan"), True])
def test_a_function_that_returns_no_time_is_one_line(small_space, tmp_path, value):
    with pytest.raises(TimingsError, match=r"^the time of '.*': ms is .*expected milliseconds above 0"):
        time_networks(lambda _: value, small_space, tmp_path / "board.csv")
    assert not (tmp_path / "board.csv").exists()
