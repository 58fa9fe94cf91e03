"""`show`: networks, searches, retrainings and families as tables and pictures."""

from __future__ import annotations

import io

import pytest
from PIL import Image

import proxyless_nas as pn
from engine.errors import ConfigError, UserError
from proxyless_nas.commands import main


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_search, space_of, formula_table):
    """A folder with table.yaml, and in run/ a search of the tiny space."""
    folder = tmp_path_factory.mktemp("shown")
    formula_table(space_of(tiny_search["space"])).save(folder / "table.yaml")
    limits = [{"metric": "latency", "table": str(folder / "table.yaml"), "at": "50%"}]
    search = tiny_search["search"] | {"regression": {"final_steps": 2}}
    pn.search(tiny_search | {"limits": limits, "search": search}, folder / "run")
    return folder


def size_of(shown) -> tuple[int, int]:
    return Image.open(io.BytesIO(shown._repr_png_())).size


def test_an_architecture_has_a_row_for_each_layer_and_the_milliseconds_of_a_table(place):
    table = pn.LatencyTable.load(place / "table.yaml")
    shown = pn.show(place / "run" / "architecture.json", table)
    head, _, *rows = str(shown).splitlines()
    assert head.split() == ["layer", "op", "channels", "input", "stride", "params", "MACs", "latency", "[ms]"]
    assert [row.split()[0] for row in rows if row[0] != "-"] == [
        "stem", "stage0.0", "stage1.0", "stage1.1", "feature_mix", "classifier", "sum",
    ]  # fmt: skip
    column = [float(row.split()[-1]) for row in rows if row[0] != "-"]
    assert sum(column[:-1]) == pytest.approx(column[-1], rel=1e-3)
    assert str(pn.show(place / "run" / "architecture.json", place / "table.yaml")) == str(shown)
    assert size_of(shown) > (300, 100)


def test_without_a_table_there_are_no_milliseconds(place):
    assert "[ms]" not in str(pn.show(place / "run" / "architecture.json")).splitlines()[0]


def test_a_search_has_its_own_table_its_figures_and_another_picture(place):
    shown, alone = pn.show(place / "run"), pn.show(place / "run" / "architecture.json", place / "table.yaml")
    text = str(shown)
    assert "latency [ms]" in text
    assert "top-1 " in text
    assert "latency: predicted " in text
    assert size_of(shown) != size_of(alone)


def test_a_family_shows_its_front(place):
    family = pn.derive(place / "run", ["30%", "70%"])
    shown = pn.show(family)
    assert [line.split(":")[0] for line in str(shown).splitlines()] == ["30%", "70%"]
    assert "on the front" in str(shown)
    assert size_of(shown) > (300, 300)


def test_the_command_prints_the_table_and_writes_the_picture(place, capsys):
    with pytest.raises(SystemExit) as end:
        main(["show", str(place / "run"), "--picture", str(place / "picture.png")])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(str(pn.show(place / "run")))
    with Image.open(place / "picture.png") as picture:
        assert picture.format == "PNG"


def test_a_folder_without_a_run_and_a_search_without_a_network_are_one_line(place, tmp_path):
    with pytest.raises(ConfigError, match=r"no config\.yaml, expected the folder of a search or of a retraining"):
        pn.show(tmp_path)
    (tmp_path / "config.yaml").write_text((place / "run" / "config.yaml").read_text())
    with pytest.raises(UserError, match=r"has no architecture\.json, expected a search that has ended") as error:
        pn.show(tmp_path)
    assert error.value.with_command.endswith(f"derive one first: proxyless-nas derive {tmp_path}")
