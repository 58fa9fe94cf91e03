# ruff: noqa: E501 - a row of a table is one mistake and its message
"""Configuration files: what they may say, how they merge, and the one line that each mistake gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator

from engine.config import Section, config_text, differences, keys_of, load_config, naming, validate
from engine.errors import CheckpointError, ConfigError
from search.config import SearchFile

BASE = Path("configs/search/quickstart_cpu.yaml")
ROOT = Path(__file__).parents[2]


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(tmp_path: Path, text: str, *overrides: str) -> dict[str, Any]:
    return load_config(written(tmp_path / "a.yaml", text), overrides)


def message_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(ConfigError) as error:
        call(*arguments)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


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
    assert message == f"{tmp_path / 'gone.yaml'}: no such file; expected the file that a.yaml extends"


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
        ("search.epochs=", ("search", "epochs"), None),
        ("search.epochs='10'", ("search", "epochs"), "10"),
        ("search.epochs = 10", ("search", "epochs"), 10),
        ("search.amp=true", ("search", "amp"), True),
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


def test_a_later_override_wins(tmp_path):
    assert loaded(tmp_path, "a: {b: 1}\n", "a.b=2", "a.b=3") == {"a": {"b": 3}}


def test_an_override_leaves_the_alias_of_its_section_alone(tmp_path):
    text = "one: &same {b: {c: 1}, l: [{d: 1}]}\ntwo: *same\n"
    config = loaded(tmp_path, text, "one.b.c=2", "one.l.0.d=2")
    assert config == {"one": {"b": {"c": 2}, "l": [{"d": 2}]}, "two": {"b": {"c": 1}, "l": [{"d": 1}]}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.epochs", "expected key=value with a dotted key, e.g. search.epochs=10"),
        ("=3", "expected key=value"),
        ("search..epochs=3", "expected key=value"),
        (".a=3", "expected key=value"),
        ("a=[1", "'[1' is not a YAML value"),
        ("a=@b", "'@b' is not a YAML value"),
        ("a=2026-13-45", "'2026-13-45' is not a YAML value"),
        ("limits.2.at=3", "limits is a list of 2, counted from 0; got '2' as its index"),
        ("limits.x=3", "limits is a list of 2, counted from 0; got 'x'"),
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


# YAML


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


def test_config_text_takes_models_paths_and_tuples(tmp_path):
    values = {"items": ({"width": 2, "name": "1e-3"},), "where": Path("a/b")}
    expected = {"items": [{"width": 2, "name": "1e-3"}], "where": "a/b"}
    assert loaded(tmp_path, config_text(values)) == expected
    small = validate(Small, values | {"where": "a/b"}, "f.yaml")
    assert validate(Small, loaded(tmp_path, config_text(small)), "f.yaml") == small


@pytest.mark.parametrize("text", ["a: " + "[" * 5000 + "]" * 5000, "a: " + "{b: " * 5000 + "1" + "}" * 5000])
def test_endless_nesting_is_an_error_not_a_traceback(tmp_path, text):
    assert message_of(loaded, tmp_path, text).endswith("has too many brackets or sections inside each other")
    assert message_of(loaded, tmp_path, "b: 1", text.replace(": ", "=", 1)).endswith("is not a YAML value")


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
        ({"count": "atuo"}, "count: got 'atuo', expected a whole number or 'auto'. Did you mean 'auto'?"),
        ({"name": "a"}, "name: unknown key; accepted here: colour, count, items, pair, where"),
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
            raise ValueError("names: 'bad' is\nno candidate")
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
def test_of_a_union_the_section_that_was_meant_explains_the_mistake(data, message):
    assert message_of(validate, Loose, data, "f.yaml") == f"f.yaml: {message}"
    assert message_of(validate, Outer, {"inner": data}, "f.yaml").startswith(f"f.yaml: inner.{message.split(';')[0]}")


def test_half_a_surrogate_pair_is_an_error_in_words():
    assert "surrogates not allowed" in message_of(validate, Loose, {"names": ["\ud800"]}, "f.yaml")


def test_a_value_that_json_lacks_is_an_error_too():
    assert message_of(validate, Small, {"where": {1, 2}}, "f.yaml").startswith("f.yaml: a value of type set")


# validate, on a real configuration


@pytest.fixture
def search_message(monkeypatch):
    """The error of quickstart_cpu.yaml with overrides, without the file's name."""
    monkeypatch.chdir(ROOT)

    def message(*overrides: str) -> str:
        text = message_of(validate, SearchFile, load_config(BASE, overrides), str(BASE))
        assert text.startswith(f"{BASE}: ")
        return text.removeprefix(f"{BASE}: ")

    return message


def test_the_quick_start_is_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)
    validate(SearchFile, load_config(BASE), str(BASE))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.epochs='3'", "search.epochs: got '3', expected a whole number; remove the quotes"),
        ("search.epochs=true", "search.epochs: got true, expected a whole number"),
        ("search.epochs=1.5", "search.epochs: got 1.5, expected a whole number"),
        ("search.epochs=1e3", "search.epochs: got 1000.0, expected a whole number; write 1000"),
        ("search.epochs=0", "search.epochs: got 0, expected at least 1"),
        ("search.epochs=", "search.epochs: is empty, expected a whole number"),
        ("search.lr=.nan", "search.lr: got .nan, expected a finite number"),
        ("search.lr=.inf", "search.lr: got .inf, expected a finite number"),
        ("data.validation=true", "data.validation: got true, expected a number"),
        ("search.lr=fast", "search.lr: got 'fast', expected a number"),
        ("search.lr=0", "search.lr: got 0, expected a number above 0"),
        ("search.momentum=1", "search.momentum: got 1, expected a number below 1"),
        ("search.lr=2026-01-31", "search.lr: got '2026-01-31', expected a number"),
        ("run.channels_last=1", "run.channels_last: got 1, expected true or false"),
        ("run.device=gpu", "run.device: got 'gpu', expected 'cpu' or 'cuda'. Did you mean 'cpu'?"),
        ("run.amp=true", "run.amp: got true, expected 'none' or 'bf16'"),
        ("search.arch_betas=0.5", "search.arch_betas: got 0.5, expected a list"),
        ("search.arch_betas=[0.5, 1]", "search.arch_betas: got [0.5, 1.0], expected two numbers in [0, 1)"),
        ("search.arch_update=two-path", "search.arch_update: got 'two-path', expected 'full', 'full_v2', 'two_path' or 'reinforce'. Did you mean 'two_path'?"),
        ("search.loss={form: hinge, wieght: 3}", "search.loss.wieght: unknown key; accepted here: form, weight. Did you mean 'weight'?"),
        ("search.loss.form=lagrange", "search.loss.form: got 'lagrange', expected 'add_linear', 'hinge', 'mul_log' or 'lagrangian'. Did you mean 'lagrangian'?"),
        ("search.loss=hinge", "search.loss: got 'hinge', expected a section with `form`: 'add_linear', 'hinge', 'mul_log' or 'lagrangian'"),
        ("search.reinforce={samples: 3}", "search.reinforce: arch_update is two_path; remove it or set arch_update: reinforce"),
        ("space.stem.width=wide", "space.stem.width: got 'wide', expected a whole number or a section (keys: exact)"),
        ("space.stem=8", "space.stem: got 8, expected a section (keys: kernel, stride, width)"),
        ("space.stages.1.dept=3", "space.stages.1.dept: unknown key; accepted here: candidates, depth, first, residual, stride, width. Did you mean 'depth'?"),
        ("limits=[]", "limits: got [], expected at least 1 entry"),
        ("limits.0.at=50 ms", "limits.0.at: got '50 ms', expected a number in the metric's unit, or 0% to 100%, such as 50%"),
        ("limits.0.at=[1]", "limits.0.at: got [1], expected a number or text"),
        ("limits.0.table=null", "limits.0.table: is missing; a latency limit reads its milliseconds from a latency table"),
        ("limits.0.below=3", "limits.0: expected exactly one of `at` (use the budget) and `below` (an upper bound)"),
        ("measure.dtype=float16", "measure.dtype: got 'float16' with device cpu, expected float32 or bfloat16 there"),
        ("data.name=CIFAR10", "data.name: got 'CIFAR10', expected 'digits', 'fashion_mnist', 'cifar10', 'imagenet', 'folder' or 'fake'. Did you mean 'cifar10'?"),
        ("sarch.epochs=3", "sarch: unknown key; accepted here: data, limits, measure, run, search, space. Did you mean 'search'?"),
        ("epochs=3", "epochs: unknown key; accepted here: data, limits, measure, run, search, space. Did you mean 'search.epochs'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_search_config_gets_one_readable_line(search_message, override, message):
    assert search_message(override) == message


def test_an_unknown_key_lists_what_is_accepted(search_message):
    message = search_message("search.epoch=3")
    assert message.startswith("search.epoch: unknown key; accepted here: arch_betas, ")
    assert message.endswith(". Did you mean 'epochs'?")


def test_a_key_of_another_section_is_sent_there(search_message):
    assert search_message("search.seed=3").endswith(". Did you mean 'run.seed'?")
    assert search_message("search.threads=3").endswith(". Did you mean 'measure.threads' or 'run.threads'?")


def test_an_empty_section_says_what_belongs_there(search_message):
    message = search_message("run=")
    assert message.startswith("run: is empty, expected a section (keys: seed, device, ")
    assert message.endswith("; fill it or remove it")


def test_further_errors_are_counted_by_place(search_message):
    assert search_message("search.epochs=x", "run.seed=x", "space.stem.width=x").endswith(" (+2 more)")


@pytest.mark.parametrize("section", ["space", "data", "limits"])
def test_a_missing_section_is_named_with_those_that_are_there(section, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(BASE)
    del config[section]
    message = message_of(validate, SearchFile, config, "f.yaml")
    assert message.startswith(f"f.yaml: {section}: is missing, expected a ")
    assert message.endswith(f"; the file has {', '.join(config)}")


def test_a_mistyped_key_is_named_before_the_one_that_is_missing_for_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_config(BASE)
    config["spce"] = config.pop("space")
    message = message_of(validate, SearchFile, config, "f.yaml")
    assert message.startswith("f.yaml: spce: unknown key; ")
    assert message.endswith(". Did you mean 'space'? (+1 more)")


def test_a_seed_beyond_64_bits_is_refused(search_message):
    assert search_message(f"run.seed={10**25}").startswith("run.seed: got 10000000000000000000000000, expected ")


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
    assert {"data.root", "run.device", "search.batch_size", "space.classes"} <= keys_of(SearchFile)


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
