# ruff: noqa: E501 - a row of a table is one mistake and its message
"""Configuration files merge as documented, and each mistake in one of them is a single line that names the place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, field_validator

from engine.config import (
    ConfigFile,
    Section,
    UserPath,
    config_text,
    differences,
    keys_of,
    load_config,
    naming,
    validate,
)
from engine.errors import CheckpointError, ConfigError, InvalidError
from engine.wording import shown
from search.config import SearchConfig
from tests.engine.config_files import loaded, message_of, written

BASE = Path("configs/search/quickstart_cpu.yaml")
ROOT = Path(__file__).parents[2]


# extends and merging


def test_extends_merges_mappings_and_replaces_everything_else(tmp_path):
    written(tmp_path / "base.yaml", "a: {x: 1, y: {z: 2, w: 3}}\nitems: [1, 2, 3]\nkept: 7\nsection: {p: 1}\n")
    own = "extends: base.yaml\na: {y: {z: 20}, new: 5}\nitems: [9]\nsection: 4\n"
    assert loaded(tmp_path, own) == {
        "a": {"x": 1, "y": {"z": 20, "w": 3}, "new": 5},
        "items": [9],
        "kept": 7,
        "section": 4,
    }


def test_extends_is_relative_to_the_file_that_says_so(tmp_path, monkeypatch):
    written(tmp_path / "shared" / "root.yaml", "a: 1\nb: 1\nc: 1\n")
    written(tmp_path / "shared" / "deep" / "middle.yaml", "extends: ../root.yaml\nb: 2\nc: 2\n")
    top = written(tmp_path / "own" / "top.yaml", "extends: ../shared/deep/middle.yaml\nc: 3\n")
    monkeypatch.chdir(tmp_path / "shared")
    assert load_config(top) == {"a": 1, "b": 2, "c": 3}


def test_later_bases_win_over_earlier_ones_and_may_share_a_base(tmp_path):
    written(tmp_path / "root.yaml", "r: 0\nx: 0\ny: 0\nz: 0\n")
    written(tmp_path / "one.yaml", "extends: root.yaml\nx: 1\ny: 1\n")
    written(tmp_path / "two.yaml", "extends: [root.yaml]\ny: 2\nz: 2\n")
    assert loaded(tmp_path, "extends: [one.yaml, two.yaml]\nz: 3\n") == {"r": 0, "x": 0, "y": 2, "z": 3}


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_cycle_is_an_error_naming_both_ends(tmp_path, names):
    for name, following in zip(names, [*names[1:], names[0]], strict=True):
        written(tmp_path / f"{name}.yaml", f"extends: {following}.yaml\n")
    message = message_of(load_config, tmp_path / "a.yaml")
    assert f"{tmp_path / 'a.yaml'}: extends: the file extends itself through {names[-1]}.yaml" in message


def test_an_absent_base_names_who_extends_it(tmp_path):
    message = message_of(loaded, tmp_path, "extends: gone.yaml\n")
    assert message == f"{tmp_path / 'gone.yaml'}: no such file, expected the file that a.yaml extends"


def test_a_mistyped_base_gets_the_nearest_name(tmp_path):
    written(tmp_path / "base_gpu.yaml", "a: 1\n")
    message = message_of(loaded, tmp_path, "extends: base-gpu.yml\n")
    assert message.endswith(f"expected the file that a.yaml extends. Did you mean '{tmp_path / 'base_gpu.yaml'}'?")


def test_a_base_may_be_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    written(tmp_path / "home" / "base.yaml", "a: 1\n")
    assert loaded(tmp_path, "extends: ~/base.yaml\nb: 2\n") == {"a": 1, "b": 2}


def test_each_file_is_read_once_however_often_it_is_extended(tmp_path):
    """Thirty levels of [b, b] would otherwise be 2 ** 30 files."""
    for i in range(30):
        written(tmp_path / f"{i}.yaml", f"extends: [{i + 1}.yaml, {i + 1}.yaml]\nk{i}: {i}\nx: {i}\n")
    written(tmp_path / "30.yaml", "x: 30\nbase: 1\n")
    assert load_config(tmp_path / "0.yaml") == {f"k{i}": i for i in range(30)} | {"x": 0, "base": 1}


def test_a_base_that_is_named_twice_counts_where_it_is_last(tmp_path):
    written(tmp_path / "b.yaml", "x: b\n")
    written(tmp_path / "c.yaml", "x: c\n")
    assert loaded(tmp_path, "extends: [b.yaml, c.yaml, b.yaml]\n") == {"x": "b"}


def test_a_chain_of_thousands_of_files_is_refused(tmp_path):
    for i in range(60):
        written(tmp_path / f"{i}.yaml", f"extends: {i + 1}.yaml\n")
    assert message_of(load_config, tmp_path / "0.yaml").endswith(
        "more than 32 files extend each other; merge some of them"
    )


@pytest.mark.parametrize("target", ["/dev/zero", "loop", '"a\\0b"', "~nosuchuser/a.yaml", "a" * 300])
def test_a_base_that_cannot_be_a_file_is_one_line(tmp_path, target):
    (tmp_path / "loop").symlink_to("loop")
    message_of(loaded, tmp_path, f"extends: {target}\n")


@pytest.mark.parametrize(
    ("value", "shown"), [("3", "3"), ("", "null"), ("[a.yaml, 1]", "[a.yaml, 1]"), ("{a: 1}", "{a: 1}")]
)
def test_extends_must_name_files(tmp_path, value, shown):
    message = message_of(loaded, tmp_path, f"extends: {value}\n")
    assert message == f"{tmp_path / 'a.yaml'}: extends: got {shown}, expected a file name or a list of them"


# overrides


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("search.epochs=10", ("search", "epochs"), 10),
        ("search.loss.form=hinge", ("search", "loss", "form"), "hinge"),
        ("new.sub.key=1", ("new", "sub", "key"), 1),
        ("empty.key=1", ("empty", "key"), 1),
        ("limits.0.at=50%", ("limits", 0, "at"), "50%"),
        ("limits.1={a: 1}", ("limits", 1), {"a": 1}),
        ("search.lr=1e-3", ("search", "lr"), 1e-3),
        ("search.name=a=b", ("search", "name"), "a=b"),
        ("search.list=[1, x]", ("search", "list"), [1, "x"]),
        ("search.epochs=null", ("search", "epochs"), None),
        ("search.epochs=~ # the default", ("search", "epochs"), None),
        ("search.epochs='10'", ("search", "epochs"), "10"),
        ("search.epochs = 10", ("search", "epochs"), 10),
        ("search.amp=true", ("search", "amp"), True),
        ("search.epochs=010", ("search", "epochs"), 10),
        ("search.list=[&x 1, *x]", ("search", "list"), [1, 1]),
    ],
)
def test_an_override_sets_one_value_read_as_yaml(tmp_path, override, keys, value):
    text = "search: {epochs: 3, keep: 1}\nlimits: [{at: 1}, {at: 2}]\nempty:\n"
    config = loaded(tmp_path, text, override)
    found = config
    for key in keys:
        found = found[key]
    assert found == value
    assert type(found) is type(value)
    assert config["search"]["keep"] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ": has no value, expected key=value, or key=null for a key that may be null"),
        ("  ", ": has no value, expected key=value, or key=null for a key that may be null"),
        ("# 3", ": '# 3' is no value in YAML: # begins a comment; put it in quotes"),
        ("#3", ": '#3' is no value in YAML: # begins a comment; put it in quotes"),
    ],
)
def test_an_override_without_a_value_is_refused(tmp_path, text, says):
    """YAML reads it as null, and a shell gives an empty text for a variable that is not set."""
    message = message_of(loaded, tmp_path, "search: {epochs: 3}\n", f"search.epochs={text}")
    assert message.startswith("override 'search.epochs=")
    assert message.endswith(says)


def test_a_later_override_wins(tmp_path):
    assert loaded(tmp_path, "a: {b: 1}\n", "a.b=2", "a.b=3") == {"a": {"b": 3}}


def test_an_override_leaves_the_alias_of_its_section_alone(tmp_path):
    text = "one: &same {b: {c: 1}, l: [{d: 1}]}\ntwo: *same\n"
    config = loaded(tmp_path, text, "one.b.c=2", "one.l.0.d=2")
    assert config == {"one": {"b": {"c": 2}, "l": [{"d": 2}]}, "two": {"b": {"c": 1}, "l": [{"d": 1}]}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.epochs", "expected key=value with a dotted key, e.g. search.epochs=10; write no spaces around ="),
        ("=", "expected key=value with a dotted key, e.g. search.epochs=10; write no spaces around ="),
        ("=3", "expected key=value"),
        ("search..epochs=3", "expected key=value"),
        (".a=3", "expected key=value"),
        ("a=[1", "'[1' is not a YAML value"),
        ("a=@b", "'@b' is not a YAML value"),
        ("a=12:30", "'12:30' is no number; YAML 1.1 read it as 750"),
        ("a=&x [*x]", "a value cannot be recursive"),
        ("limits.2.at=3", "limits is a list of 2, counted from 0; got '2' as its index"),
        ("limits.x=3", "limits is a list of 2, counted from 0; got 'x' as its index; write limits.0.x for its first"),
        ("limits.-1=3", "got '-1' as its index"),
        ("limits.²=3", "got '²' as its index"),
        ("search.epochs.more=3", "search.epochs in "),
        ("search.epochs.more=3", "is the single value 3, not a section"),
    ],
)
def test_a_bad_override_is_quoted_in_the_error(tmp_path, override, words):
    message = message_of(loaded, tmp_path, "search: {epochs: 3}\nlimits: [{at: 1}, {at: 2}]\n", override)
    assert message.startswith(f"override '{override}': ")
    assert words in message


# validate, on a small model


class Wide(Section):
    exact: int = Field(ge=1)


class Red(Section):
    form: Literal["red"]
    weight: float = 0.1


class Blue(Section):
    form: Literal["blue"]
    scale: float = 0.1


class Item(Section):
    width: int | Wide
    name: str = "x"


class Small(Section):
    items: tuple[Item, ...] = ()
    colour: Annotated[Red | Blue, Field(discriminator="form")] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    where: Path | None = None
    count: int | Literal["auto"] = 1
    on: bool = True


def test_config_text_of_a_model_reads_back_to_it(tmp_path):
    small = validate(Small, {"items": ({"width": 2, "name": "1e-3"},), "where": "a/b"}, "f.yaml")
    assert validate(Small, loaded(tmp_path, config_text(small)), "f.yaml") == small


def test_json_like_values_become_the_models_types():
    small = validate(Small, {"items": [{"width": 3}], "pair": [1, 2], "where": "a/b", "count": "auto"}, "f")
    assert small.items == (Item(width=3),)
    assert small.pair == (1.0, 2.0)
    assert small.where == Path("a/b")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"items": [{"width": 1}, {"width": 1, "nmae": "a"}]}, "items.1.nmae: unknown key; accepted here: name, width. Did you mean 'name'?"),
        ({"items": [{"width": "3"}]}, "items.0.width: got '3', expected a whole number or a section (keys: exact); remove the quotes"),
        ({"items": [{"width": {"exact": 0}}]}, "items.0.width.exact: got 0, expected at least 1"),
        ({"items": [{"width": {"exat": 3}}]}, "items.0.width.exat: unknown key; accepted here: exact. Did you mean 'exact'? (+1 more)"),
        ({"items": [{"width": {}}]}, "items.0.width.exact: is missing, expected a whole number; items.0.width has nothing"),
        ({"items": [{}]}, "items.0.width: is missing, expected a whole number or a section (keys: exact); items.0 has nothing"),
        ({"items": [3]}, "items.0: got 3, expected a section (keys: width, name)"),
        ({"items": {"width": 3}}, "items: got {width: 3}, expected a list of sections, each begun by '- '"),
        ({"colour": {"form": "red", "scale": 1}}, "colour.scale: unknown key; accepted here: form, weight"),
        ({"colour": {"form": "red", "red": 1, "weight": "x"}}, "colour.weight: got 'x', expected a number (+1 more)"),
        ({"colour": {"form": "Red"}}, "colour.form: got 'Red', expected 'red' or 'blue'. Did you mean 'red'?"),
        ({"colour": {"form": None}}, "colour.form: got null, expected 'red' or 'blue'"),
        ({"colour": {}}, "colour.form: is missing, expected 'red' or 'blue'; colour has nothing"),
        ({"colour": "red"}, "colour: got 'red', expected a section with `form`: 'red' or 'blue'"),
        ({"pair": [1]}, "pair: got [1], expected 2 entries"),
        ({"pair": [1, 2, 3]}, "pair: got [1, 2, 3], expected 2 entries at most"),
        ({"pair": [1, "x"]}, "pair.1: got 'x', expected a number"),
        ({"where": 3}, "where: got 3, expected a path"),
        ({"count": "1_000"}, "count: got '1_000', expected a whole number or 'auto'; write 1000"),
        ({"count": "0b101"}, "count: got '0b101', expected a whole number or 'auto'; write 5"),
        ({"on": "yes"}, "on: got 'yes', expected true or false; write true"),
        ({"on": "Off"}, "on: got 'Off', expected true or false; write false"),
        ({"on": "TRUE"}, "on: got 'TRUE', expected true or false; write true"),
        ({"count": "atuo"}, "count: got 'atuo', expected a whole number or 'auto'. Did you mean 'auto'?"),
        ({"name": "a"}, "name: unknown key; accepted here: colour, count, items, on, pair, where"),
    ],
)  # fmt: skip
def test_an_error_names_the_key_as_the_file_has_it(data, message):
    assert message_of(validate, Small, data, "f.yaml") == f"f.yaml: {message}"


class Latency(Section):
    metric: Literal["latency"]
    table: Path


class Count(Section):
    metric: Literal["macs", "params"]
    below: float


class Loose(Section):
    """Unions of sections without a discriminator, and a validator that begins with its own key."""

    limits: tuple[Latency | Count, ...] = ()
    names: tuple[str, ...] = ()

    @field_validator("names")
    @classmethod
    def known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "bad" in names:
            raise InvalidError("names", "'bad' is\nno candidate")
        return names


class Outer(Section):
    inner: Loose = Loose()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"limits": [{"metric": "macs", "belo": 3.0}]}, "limits.0.belo: unknown key; accepted here: below, metric. Did you mean 'below'? (+1 more)"),
        ({"limits": [{"metric": "latency", "table": 3}]}, "limits.0.table: got 3, expected a path"),
        ({"limits": [{"metric": "params", "below": "x"}, {"metric": "latency"}]}, "limits.0.below: got 'x', expected a number (+1 more)"),
        ({"names": ["bad"]}, "names: 'bad' is no candidate"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_union_is_explained_for_the_section_that_was_meant(data, message):
    assert message_of(validate, Loose, data, "f.yaml") == f"f.yaml: {message}"
    assert message_of(validate, Outer, {"inner": data}, "f.yaml").startswith(f"f.yaml: inner.{message.split(';')[0]}")


def test_half_a_surrogate_pair_is_an_error_in_words():
    assert "surrogates not allowed" in message_of(validate, Loose, {"names": ["\ud800"]}, "f.yaml")


def test_a_value_that_json_lacks_is_an_error_too():
    assert message_of(validate, Small, {"where": {1, 2}}, "f.yaml").startswith("f.yaml: a value of type set")


def test_thousands_of_wrong_values_are_one_short_line():
    """The first ones are explained; comparing each with each and showing it whole would take minutes."""
    many = {f"key{i}": list(range(100)) for i in range(20_000)}
    message = message_of(validate, Small, many, "f.yaml")
    assert message == "f.yaml: key0: unknown key; accepted here: colour, count, items, on, pair, where (and many more)"
    assert message_of(validate, Small, {"items": [{"width": {}}] * 20_000}, "f.yaml").endswith("(and many more)")


def test_values_nested_too_deeply_are_one_line():
    deep: list[object] = []
    for _ in range(150):
        deep = [deep]
    assert "inside each other" not in message_of(validate, Small, {"pair": deep}, "f.yaml")
    for _ in range(5000):
        deep = [deep]
    assert message_of(validate, Small, {"pair": deep}, "f.yaml").endswith(
        "too many brackets or sections inside each other"
    )


@pytest.mark.parametrize("override", [".".join("a" * 1000) + "=1", "l.99999999999999999999999=1", f"l.{'9' * 9999}=1"])
def test_an_override_of_any_length_gets_a_short_line(tmp_path, override):
    assert message_of(loaded, tmp_path, "l: [1]\n", override).startswith("override '")


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path):
    message = message_of(validate, Small, loaded(tmp_path, '"\\x1b[31m\\x07": 1\n'), "f.yaml")
    assert message.startswith("f.yaml: \\x1b[31m\\x07: unknown key")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 10_000_000, "'" + "x" * 56 + "..."),
        ([[1] * 1000] * 1_000_000, "[" + "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1"[:56] + "..."),
        ({"a": "b" * 10_000_000}, "{a: " + "b" * 53 + "..."),
        (["a", {"b": [1, None]}], "[a, {b: [1, null]}]"),
        ("it's", '"it\'s"'),
    ],
)
def test_a_value_is_shown_by_its_beginning(value, text):
    assert shown(value) == text


# paths


class Places(Section):
    one: UserPath | None = None
    many: tuple[UserPath, ...] = ()


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    places = validate(Places, {"one": "~/a/b", "many": ["~", "c/~", "/d"]}, "f.yaml")
    assert places == Places(one=tmp_path / "a" / "b", many=(tmp_path, Path("c/~"), Path("/d")))
    assert loaded(tmp_path, config_text(places)) == {"one": f"{tmp_path}/a/b", "many": [str(tmp_path), "c/~", "/d"]}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~nosuchuser/a", "one: ~nosuchuser/a: there is no home folder of that name; write the path in full"),
        ("a\0b", "a path without a NUL character"),
        ("a" * 256, "a name of 256 bytes, which no file can have"),
        ("ä" * 128, "a name of 256 bytes, which no file can have"),
        ("a/" * 2100, "a name of 4199 bytes"),
    ],
)
def test_a_path_that_no_file_can_have_is_refused(path, words):
    assert words in message_of(validate, Places, {"one": path}, "f.yaml")


def test_a_path_with_a_tilde_is_the_same_as_in_full(monkeypatch):
    """Runs of an earlier version recorded `~/data`, as it was written."""
    monkeypatch.setenv("HOME", "/home/me")
    assert differences({"root": "~/data"}, {"root": "/home/me/data"}) == []
    assert differences({"root": "~/data"}, {"root": "/home/you/data"}) == ["root: '~/data' -> '/home/you/data'"]
    assert differences({"root": "~"}, {"root": "~nosuchuser"}) == ["root: '~' -> '~nosuchuser'"]


# differences


def test_differences_name_each_changed_value_by_its_key():
    old = {"a": {"b": 1, "c": "x"}, "l": [{"d": 1}, {"d": 2}], "gone": 3, "same": [1, 2], "pair": [1, 2]}
    new = {
        "a": {"b": 2, "c": "x"},
        "l": [{"d": 1}, {"d": 5}, {"d": 6}],
        "same": (1, 2),
        "pair": [1, 2, 3],
        "more": None,
    }
    assert differences(old, new) == [
        "a.b: 1 -> 2",
        "l.1.d: 2 -> 5",
        "l.2: (absent) -> {d: 6}",
        "gone: 3 -> (absent)",
        "pair: [1, 2] -> [1, 2, 3]",
        "more: (absent) -> null",
    ]
    assert differences(old, old) == []
    assert len(differences(list(range(100_000)), list(range(1, 100_001)))) == 100


def test_differences_show_where_long_values_part():
    folder = "tables/" + "long/" * 15
    assert differences({"t": folder + "a"}, {"t": folder + "b"}) == [f"t: '{folder}a' -> '{folder}b'"]


# errors that only show when a setting is used


class Inner(Section):
    device: str = "cpu"


class Whole(Section):
    run: Inner = Inner()
    seed: int = 0


def test_keys_of_a_file_are_those_of_its_sections():
    assert keys_of(Whole) == {"run.device"}
    assert {"data.root", "run.device", "search.batch_size", "space.classes"} <= keys_of(SearchConfig)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("run.device: got 'cuda'", True),
        ("run.device.deeper: got 1", True),
        ("run.devices: got 'cuda'", False),
        ("run.json: not JSON", False),
        ("search.yaml: run.device: got 'cuda'", False),
        ("--out run: is a file", False),
    ],
)
def test_an_error_about_a_key_gets_the_name_of_its_file(message, named):
    with pytest.raises(ConfigError) as error, naming(Path("search.yaml"), keys_of(Whole)):
        raise ConfigError(message)
    assert str(error.value) == ("search.yaml: " if named else "") + message


def test_it_gets_the_name_once_and_other_errors_none():
    keys = keys_of(Whole)
    with pytest.raises(ConfigError, match=r"^a\.yaml: run\.device: x$"), naming(Path("b"), keys):  # noqa: SIM117
        with naming(Path("a.yaml"), keys):
            raise ConfigError("run.device: x")
    with pytest.raises(CheckpointError, match=r"^run\.device: x$"), naming(Path("a.yaml"), keys):
        raise CheckpointError("run.device: x")


# configurations from Python


class _Inner(Section):
    numbers: tuple[int, ...] = ()
    pairs: tuple[tuple[str, float], ...] = ()
    place: UserPath | None = None


class _Whole(ConfigFile):
    inner: _Inner
    names: tuple[Literal["a", "b"], ...] | None = None
    kinds: tuple[_Inner, ...] = ()


def test_a_model_built_in_python_takes_lists_texts_and_dictionaries_as_a_file_does(tmp_path):
    content = {
        "inner": {"numbers": [1, 2], "pairs": [["x", 1.5], ["y", 2]], "place": str(tmp_path)},
        "names": ["a", "b"],
        "kinds": [{"numbers": [3]}, {}],
    }
    read = validate(_Whole, content, "a.yaml")
    assert _Whole(**content) == _Whole.model_validate(content) == _Whole.read(content) == read
    assert read.inner.pairs == (("x", 1.5), ("y", 2.0))
    assert _Inner(place=tmp_path).place == tmp_path
    assert _Whole.read({"inner": _Inner(numbers=[1]), "kinds": (_Inner(),)}).inner.numbers == (1,)


@pytest.mark.parametrize(
    ("inner", "says"),
    [
        ({"numbers": ["1"]}, "the config: inner.numbers.0: got '1', expected a whole number; remove the quotes"),
        ({"numbers": [1.0]}, "the config: inner.numbers.0: got 1.0, expected a whole number; write 1"),
        ({"numbers": [True]}, "the config: inner.numbers.0: got true, expected a whole number"),
        ({"numbers": {1}}, "the config: inner.numbers: got !!set {1: null}, expected a list"),
        ({"numbers": iter([1])}, "the config: inner.numbers: got a value of type list_iterator, expected a list"),
        ({"numbers": "12"}, "the config: inner.numbers: got '12', expected a list"),
        ({"place": 1}, "the config: inner.place: got 1, expected "),
        ({"number": [1]}, "the config: inner.number: unknown key; accepted here: numbers, pairs, place. Did you mean"),
        ([], "the config: inner: got [], expected "),
    ],
)
def test_a_dictionary_from_python_is_refused_in_the_words_for_a_file(inner, says):
    assert says in message_of(_Whole.read, {"inner": inner})


def test_overrides_change_a_dictionary_but_not_the_callers_own():
    content = {"inner": {"numbers": [1]}}
    assert _Whole.read(content, ["inner.numbers=[2, 3]"]).inner.numbers == (2, 3)
    assert content == {"inner": {"numbers": [1]}}


def test_overrides_make_another_model_of_a_whole_one():
    whole = _Whole(inner={"place": "/a", "numbers": [1]}, kinds=[{"numbers": [4]}])
    assert _Whole.read(whole) is whole
    changed = _Whole.read(whole, ["inner.numbers=[2]", "kinds.0.numbers=[5]", "names=[b]"])
    assert changed == _Whole(inner={"place": "/a", "numbers": [2]}, kinds=[{"numbers": [5]}], names=["b"])
    assert whole == _Whole(inner={"place": "/a", "numbers": [1]}, kinds=[{"numbers": [4]}])


def test_what_is_no_configuration_is_refused():
    assert "the config: got 3, expected a path, a dictionary or a _Whole" in message_of(_Whole.read, 3)
