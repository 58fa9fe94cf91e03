"""Tables from whole-network timings: recovery, and what the networks do not tell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from scipy.linalg import null_space, orth

from engine.errors import UserError
from latency.build import occurrences
from latency.config import MeasureConfig
from latency.device import Device
from latency.fit import FitError, fit_table, identify, read_measurements
from latency.plan import calibration_networks, network_job, timed_layers, verification_networks
from latency.table import Runtime
from supernet.architecture import Architecture
from supernet.space import Space

DEVICE = Device(kind="other", name="board", fingerprint="f")


@pytest.fixture
def space(space_of) -> Space:
    """4 searchable edges and 3 * 4 * 2 * 3 = 72 networks; the second edge of a stage shares its keys with the third."""
    names = ["mbconv_k3_e3", "mbconv_k5_e3", "conv_k1", "skip"]
    return space_of(
        {
            "input_size": 8,
            "classes": 3,
            "stem": {"width": 8},
            "stages": [
                {"width": 16, "depth": 2, "candidates": names},
                {"width": 24, "depth": 2, "first": ["proj", "conv_k3"], "candidates": ["conv_k1", "conv_k3", "skip"]},
            ],
            "feature_mix": 16,
        }
    )


def all_paths(space: Space) -> list[tuple[int, ...]]:
    return list(product(*(range(len(edge.candidates)) for edge in space.searchable)))


def jobs_of(space: Space, networks):
    return [network_job(space, f"n{i}", "calibration", paths) for i, paths in enumerate(networks)]


def fitted(space: Space, measurements):
    runtime = Runtime(name="x", version="1")
    return fit_table(space, MeasureConfig(device="external"), measurements, device=DEVICE, runtime=runtime, source="s")


def price(layer) -> float:
    return 0.2 + layer.complexity.macs / 3e4 + (0.3 if "k5" in str(layer) else 0)


def true_ms(space: Space, paths) -> float:
    return 1.0 + sum(price(a) for a in network_job(space, "n", "calibration", paths).layers)


def test_networks_that_took_no_part_are_predicted(space):
    networks = calibration_networks(space, 50, 0)
    found = fitted(space, [(paths, true_ms(space, paths)) for paths in networks])
    cost = found.table.cost(space)
    for paths in verification_networks(space, 10, 0, avoid=networks):
        assert cost.of(paths) == pytest.approx(true_ms(space, paths), rel=0.01)
    assert found.left_out.mape_percent < 1
    assert found.table.method == "whole_networks"
    assert all(entry.n is None and entry.calibrated_ms is not None for entry in found.table.entries.values())


def test_several_timings_of_one_network_count_as_their_median(space):
    networks = list(dict.fromkeys(calibration_networks(space, 30, 0)))
    once = fitted(space, [(paths, true_ms(space, paths)) for paths in networks])
    thrice = fitted(space, [(p, true_ms(space, p) * f) for p in networks for f in (1.0, 0.5, 40.0)])
    assert once.table.entries == thrice.table.entries
    assert once.table.calibration == thrice.table.calibration


def test_too_few_networks_are_refused(space):
    same = all_paths(space)[0]
    with pytest.raises(FitError, match="1 different networks, expected at least 10"):
        fitted(space, [(same, 1.0)] * 40)


def test_rank_and_need_are_those_of_the_whole_design(space):
    """By enumeration of all 72 networks."""
    keys = [str(layer) for layer in timed_layers(space)]
    everything = jobs_of(space, all_paths(space))
    design = np.hstack([occurrences(everything, keys), np.ones((len(everything), 1))])
    found = identify(space, everything)
    assert found.needed == np.linalg.matrix_rank(design)
    assert found.rank == found.needed
    assert found.unseen == ()
    assert found.inseparable == ()  # stem and head are in every network, which no search needs to tell apart


@pytest.mark.parametrize("seed", range(6))
def test_inseparable_ops_are_exactly_those_that_matter_and_are_not_determined(seed, space):
    """Brute force: an entry is determined unless some change of entries that leaves every measured network's sum alone
    changes the sum of another network made of seen entries."""
    rng = np.random.default_rng(seed)
    networks = [all_paths(space)[i] for i in rng.choice(72, size=5, replace=False)]
    measured = jobs_of(space, networks)
    found = identify(space, measured)
    keys = [str(layer) for layer in timed_layers(space)]
    design = np.hstack([occurrences(measured, keys), np.ones((5, 1))])
    assert found.rank == np.linalg.matrix_rank(design)
    seen = {key for key, column in zip(keys, design.T, strict=False) if column.any()}
    assert set(found.unseen) == set(keys) - seen
    possible = [job for job in jobs_of(space, all_paths(space)) if {str(a) for a in job.layers} <= seen]
    whole = np.hstack([occurrences(possible, keys), np.ones((len(possible), 1))])
    assert found.needed == np.linalg.matrix_rank(np.vstack([design, whole]))
    assert bool(found.inseparable) == (found.rank < found.needed)
    for group in found.inseparable:
        assert set(group) <= seen
    assert len({key for group in found.inseparable for key in group}) == sum(map(len, found.inseparable))


def lacking(space: Space, measured) -> tuple[list[str], np.ndarray]:
    """(entries, a basis of the changes of entries that no measured network notices but some other network of seen
    entries does): by enumeration of all networks."""
    keys = [str(layer) for layer in timed_layers(space)]

    def design(jobs) -> np.ndarray:
        return np.hstack([occurrences(jobs, keys), np.ones((len(jobs), 1))])

    seen = {str(layer) for job in measured for layer in job.layers}
    possible = [job for job in jobs_of(space, all_paths(space)) if {str(a) for a in job.layers} <= seen]
    span = orth(design(possible).T)  # (entries + 1, dimensions)
    return keys, span @ null_space(design(measured) @ span)


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_the_finest_into_which_unnoticed_changes_fall(seed, space):
    """An entry is in a group exactly if it takes part in an unnoticed change. Each group's part of such a change is one
    itself (ranks add up), and no group splits into two of which that holds."""
    rng = np.random.default_rng(seed)
    networks = [all_paths(space)[i] for i in rng.choice(72, size=4 + seed % 5, replace=False)]
    measured = jobs_of(space, networks)
    keys, changes = lacking(space, measured)
    changes = changes[:-1]  # the constant goes with the stem

    def rank(group: Sequence[str]) -> int:
        rows = changes[[keys.index(key) for key in group]]
        return int(np.linalg.matrix_rank(rows, tol=1e-8)) if rows.size else 0

    found = identify(space, measured)
    moved = {key for key, row in zip(keys, changes, strict=True) if np.abs(row).max(initial=0) > 1e-8}
    assert {key for group in found.inseparable for key in group} == moved
    assert found.needed - found.rank == changes.shape[1] == sum(map(rank, found.inseparable))
    for group in found.inseparable:
        for mask in range(1, 2 ** (len(group) - 1)):
            left = [key for i, key in enumerate(group) if mask >> i & 1]
            right = [key for key in group if key not in left]
            assert rank(left) + rank(right) > rank(group)


def test_two_ops_that_always_change_together_are_named(space):
    """Edge 0 takes k5 exactly where edge 3 takes conv_k3: no network tells which of the two is slow."""
    edges = space.searchable
    k5 = edges[0].candidates.index("mbconv_k5_e3")
    k3 = edges[3].candidates.index("conv_k3")
    networks = [paths for paths in all_paths(space) if (paths[0] == k5) == (paths[3] == k3)]
    found = identify(space, jobs_of(space, networks))
    assert found.unseen == ()
    (group,) = found.inseparable
    assert str(edges[0].layers[k5]) in group
    assert str(edges[3].layers[k3]) in group
    assert found.needed - found.rank == 1


def test_an_op_that_no_network_holds_is_named(space):
    k5 = space.searchable[0].candidates.index("mbconv_k5_e3")
    networks = [paths for paths in all_paths(space) if paths[0] != k5]
    found = identify(space, jobs_of(space, networks))
    assert found.unseen == (str(space.searchable[0].layers[k5]),)
    assert found.inseparable == ()


# ---- files ----


def test_a_csv_and_a_json_say_the_same(space, tmp_path):
    """Names of all edges, or the file of an architecture beside the timings; further columns are for the reader."""
    networks = calibration_networks(space, 4, 0)
    own = [Architecture(space, paths) for paths in networks]
    (tmp_path / "a.json").write_text(own[0].to_json())
    names = ["a.json", *(" ".join(a.names) for a in own[1:])]
    lines = [f"{i},{ms},note {i}" for i, ms in zip(names, (1.5, 2, 3e-1, 40), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["architecture,ms,note", *lines]) + "\n")
    rows = [{"architecture": "a.json", "ms": 1.5}]
    rows += [{"architecture": list(a.names), "ms": ms} for a, ms in zip(own[1:], (2, 0.3, 40), strict=True)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    expected = list(zip(networks, (1.5, 2, 0.3, 40), strict=True))
    assert read_measurements(tmp_path / "t.csv", space) == expected
    assert read_measurements(tmp_path / "t.json", space) == expected


def test_what_a_spreadsheet_writes_is_read(space, tmp_path):
    """A mark before the header, quoted cells, other line ends."""
    names = " ".join(Architecture(space, all_paths(space)[0]).names)
    (tmp_path / "t.csv").write_bytes(f'\ufeff"architecture","ms"\r\n"{names}","1.5"\r\n'.encode())
    assert read_measurements(tmp_path / "t.csv", space) == [(all_paths(space)[0], 1.5)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "architecture;ms\nNAMES;1\n", "line 1 is 'architecture;ms', expected a header"),
        ("t.csv", "architecture,ms\nNAMES,1\nNAMES,1,5\n", "t.csv:3: has more values than the header has columns"),
        ("t.csv", "architecture,ms\nNAMES\n", "t.csv:2: ms is None"),
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
def test_a_wrong_file_is_one_line(name, text, words, space, tmp_path):
    names = " ".join(Architecture(space, all_paths(space)[0]).names)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.json").write_text("")
    (tmp_path / name).write_text(text.replace("NAMES", names))
    with pytest.raises(UserError, match=re.escape(words)) as error:
        read_measurements(tmp_path / name, space)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read(content, space, tmp_path):
    if content:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FitError, match=r"t\.csv: cannot be read \((No such file|not UTF-8)"):
        read_measurements(tmp_path / "t.csv", space)
