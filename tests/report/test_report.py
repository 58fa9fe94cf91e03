"""The report is one page that says what the runs say, loads nothing, and is readable everywhere."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import proxyless_nas as pn
from engine.errors import ConfigError, UserError
from engine.runs.stages import StageRecord
from proxyless_nas.commands import main
from report.colours import DARK, GRAPHICS, LIGHT, TEXTS, contrast, shades
from report.deployed import deployed_of
from report.drawing import Line, Marks, chart, thinned, ticks
from report.facts import Beside, Facts, collect
from report.page import page_of
from report.search_sections import MOST_FRAMES

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EMPTY = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "path", "circle", "rect"}


class Page(HTMLParser):
    """A page whose elements are balanced, with its ids, links and texts."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def rows(self, text: str, caption: str) -> list[list[str]]:
        """Returns the cells of the table of this caption."""
        table = text[text.index(f">{caption}</caption>") :].partition("</table>")[0]
        return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table)]


@pytest.fixture(scope="module")
def text(runs) -> str:
    path = pn.report(runs / "search", runs / "retrain", out=runs / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def facts(runs) -> Facts:
    return collect([runs / "search", runs / "retrain"])


def test_the_same_runs_give_the_same_bytes_wherever_they_are_given(runs, text, tmp_path):
    again = pn.report(runs / "retrain", runs / "search", out=tmp_path / "other.html")
    assert again.read_text(encoding="utf-8") == text
    inside = pn.report(runs / "retrain", out=runs / "search" / "report.html")  # its search is found by source.json
    assert inside.read_text(encoding="utf-8") == text
    assert pn.report(runs / "retrain", out=inside).read_text(encoding="utf-8") == text
    inside.unlink()


def test_it_is_one_whole_page_that_loads_nothing(text):
    page = Page(text)
    assert len(text.encode()) < 1_500_000
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "video", "audio", "form"}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
        assert attributes.get("href", "#").startswith(("#", "data:,"))
    assert "url(" not in text
    assert "@import" not in text
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_it_can_be_read_without_eyes_or_a_mouse(text):
    page = Page(text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for tag, a in page.elements if tag == "a"} <= set(ids)
    labels = {a.get("for") for tag, a in page.elements if tag == "label"}
    assert {a["id"] for tag, a in page.elements if tag == "input"} == labels
    assert next(a for tag, a in page.elements if tag == "html")["lang"] == "en"
    assert all(a.get("aria-label") or a.get("aria-hidden") for tag, a in page.elements if tag == "svg")
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert set(headings[1:]) == {2}
    assert all("tabindex" in a for _, a in page.elements if "scroll" in (a.get("class") or "").split())


def test_the_figures_are_those_of_the_runs(runs, text):
    page = Page(text)
    search = json.loads((runs / "search" / "result.json").read_text())
    (limit,) = search["limits"]
    (_, row) = page.rows(text, "What was asked, and what the derived network needs")
    assert row[:2] == ["latency", f"at {limit['at']:.4g} ms"]
    assert row[3] == f"{limit['predicted']:.4g} ms"
    head, *layers, total = page.rows(text, "Each layer")
    assert total[head.index("predicted ms")] == f"{limit['predicted']:.4g}"
    assert [row[0] for row in layers] == ["stem", "stage0.0", "stage1.0", "stage1.1", "feature_mix", "classifier"]
    names = json.loads((runs / "search" / "architecture.json").read_text())["paths"]
    assert [row[1].partition("+")[0] for row in layers[1:4]] == names
    retrained = json.loads((runs / "retrain" / "result.json").read_text())["test"]
    assert page.rows(text, "On the test set")[1][1] == f"{retrained['top1']:.2f}"
    members = json.loads((runs / "search" / "pareto.json").read_text())["members"]
    rows = page.rows(text, "Networks derived at step 4 (pareto.json)")[1:]
    assert {(row[0], row[2]) for row in rows} == {(m["asked"], f"{m['top1']:.2f}") for m in members}
    for note in search["notes"]:
        assert f"Warning: {note[:40]}" in "".join(page.texts)


def test_every_file_is_there_with_its_hash_and_every_setting(runs, text):
    listed = {row[0]: row[2] for row in Page(text).rows(text, f"SHA-256 of {len(files_of(runs))} files")[1:]}
    assert listed == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files_of(runs).items()}
    page = "".join(Page(text).texts)
    for name in ("search", "retrain"):
        assert (runs / name / "config.yaml").read_text().strip() in page


def files_of(runs: Path) -> dict[str, Path]:
    found = [path for name in ("search", "retrain") for path in (runs / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(runs)): path for path in found if not path.name.startswith(".")}


def test_the_probabilities_have_a_picture_for_each_time_they_were_recorded(runs, text, facts):
    records = [json.loads(line) for line in (runs / "search" / "metrics.jsonl").read_text().splitlines()]
    recorded = {r["step"]: r for r in records if any(tag.startswith("probability/") for tag in r)}
    assert [shot.step for shot in facts.snapshots] == sorted(recorded)
    assert len(recorded) > 1
    assert recorded[4]["probability/stage0.0/skip"] == facts.snapshots[-2].probabilities["stage0.0"]["skip"]
    for shot in facts.snapshots:
        assert all(sum(row.values()) == pytest.approx(1, abs=1e-3) for row in shot.probabilities.values())
    radios = [a for tag, a in Page(text).elements if tag == "input"]
    assert len(radios) == len(recorded)
    assert [i for i, a in enumerate(radios) if "checked" in a] == [len(radios) - 1]
    many = replace(facts, snapshots=tuple(replace(facts.snapshots[0], step=i) for i in range(1000)))
    steps = re.findall(r'<label for="probabilities-\d+">(\d+)<', page_of(many))
    assert len(steps) == MOST_FRAMES
    assert (steps[0], steps[-1]) == ("0", "999")


def test_a_large_search_stays_a_small_page(facts):
    """30 layers with 10 candidates each, a thousand times, and curves of 100,000 points."""
    row = {f"mbconv_k{k}_e6": 0.1 for k in range(10)}
    shots = tuple(replace(facts.snapshots[0], step=i, probabilities={f"stage{e}.0": row for e in range(30)})
                  for i in range(1000))  # fmt: skip
    points = [(i, i**0.5) for i in range(100_000)]
    curves = dict.fromkeys(facts.search_curves, points)
    assert len(page_of(replace(facts, snapshots=shots, search_curves=curves)).encode()) < 1_500_000


def test_a_layer_has_the_milliseconds_of_each_table(facts):
    (used,) = facts.tables
    layers = tuple(replace(layer, ms=(*layer.ms, (2.0, None))) for layer in facts.layers)
    page = page_of(replace(facts, tables=(used, replace(used, path="other/phone.yaml")), layers=layers))
    head, *rows = Page(page).rows(page, "Each layer")
    assert head[-4:] == ["predicted ms, table", "measured ms, table", "predicted ms, phone", "measured ms, phone"]
    assert [row[-2:] for row in rows[:-1]] == [["2", ""]] * len(layers)
    assert rows[-1][-2] == f"{2 * len(layers)}"


def test_a_run_of_an_earlier_version_shows_the_probabilities_of_its_checkpoint(runs, tmp_path):
    shutil.copytree(runs / "search", tmp_path / "search")
    path = tmp_path / "search" / "metrics.jsonl"
    lines = [line for line in path.read_text().splitlines() if "probability/" not in line]
    path.write_text("\n".join([*lines, '{"step": 5, "train/lo']))  # and it was killed while it wrote a line
    (shot,) = collect([tmp_path / "search"]).snapshots
    assert shot.step == 4
    assert "Path probabilities over time" in page_of(collect([tmp_path / "search"]))


def test_a_search_alone_a_retraining_alone_and_unfinished_ones(runs, tmp_path):
    for name in ("search", "retrain"):
        shutil.copytree(runs / name, tmp_path / name)
    (tmp_path / "retrain" / "source.json").unlink()
    alone = page_of(collect([tmp_path / "retrain"]))
    assert "The latency table" not in alone
    assert "multiply-accumulates" in alone
    (tmp_path / "search" / "result.json").unlink()
    (tmp_path / "search" / "architecture.json").unlink()
    (tmp_path / "retrain" / "result.json").unlink()
    searching = page_of(collect([tmp_path / "search"]))
    assert "The search has not ended" in searching
    assert "Every setting" in searching
    assert "The retraining has not ended" in page_of(collect([tmp_path / "retrain"]))
    for page in (alone, searching):
        Page(page)
        assert not re.search(r"</h2>\s*</section>", page)  # no section is empty


def test_a_quick_starts_random_networks_stand_beside_the_derived_one(runs, tmp_path):
    for name in ("search", "retrain", "table.yaml"):
        (shutil.copytree if (runs / name).is_dir() else shutil.copy)(runs / name, tmp_path / name)
    rows = [Beside(f"random {i}", 1.0, 1.1 + i, 0.1, 60.0 + i, 1000, 2000) for i in range(3)]
    rows.insert(0, Beside("derived", 1.0, 1.05, 0.1, 61.5, 1000, 2000))
    (tmp_path / "result.json").write_text(json.dumps({"networks": [vars(row) for row in rows], "tries": [{}]}))
    facts = collect([tmp_path])
    assert facts.beside == tuple(rows)
    page = page_of(facts)
    assert "it is more accurate than 2 of them." in page
    assert f"{tmp_path.name}: report" in page


@pytest.fixture
def exported(tmp_path) -> Path:
    """A folder of an exported network: a float32 and an int8 file, and their timings, as other packages record them."""
    compared = {"images": 16, "max_abs_diff": 1.2e-6, "allowed": 4.5e-5, "argmax_agreement": 1.0}
    one = {
        "file": "net.onnx",
        "files": [{"file": "net.onnx", "bytes": 1000, "sha256": "0" * 64}],
        "parity": {"runtime": "ONNX Runtime 1.32", "precision": "float32", "random": compared, "photographs": compared},
    }
    drop = {"images": 500, "top1_float32": 91.2, "top1_int8": 90.8, "points": 0.4, "interval": [-0.3, 1.1]}
    int8 = {
        "file": "net.int8.onnx",
        "files": [{"file": "net.int8.onnx", "bytes": 300, "sha256": "1" * 64}],
        "dtype": "int8",
        "runtime": "ONNX Runtime 1.32",
        "types": {"input": "float32", "output": "float32"},
        "drop": drop,
        "agreement": {"images": 500, "on": "test images", "share": 0.986},
        "calibration": {"images": 128, "source": "the run's training images"},
        "weight_bits": 7,
        "kept": ["stem.conv"],
        "sensitivity": [{"layer": "classifier.linear", "rms_diff": 0.25}, {"layer": "stem.conv", "rms_diff": 0.125}],
    }
    timing = {
        "file": "net.onnx", "runtime": "onnxruntime 1.32", "device": {"name": "A board"}, "threads": 2, "batch": 1,
        "median_ms": 2.5, "noise_ms": 0.01, "steady": True, "no_prediction": "", "no_layers": "",
        "prediction": {"ms": 2.0, "error_percent": -20.0, "verdict": "slower", "reason": ""},
        "layers": [{"place": "stem", "op": "conv_k3", "measured_ms": 0.75, "predicted_ms": 0.5}],
    }  # fmt: skip
    folder = tmp_path / "exported"
    folder.mkdir()
    contents = {
        "export.json": {"format": "proxylessnas/export@1", "files": {"onnx": one, "onnx_int8": int8}},
        "accuracy.json": {"onnx": {"images": 500, "top1": 91.2, "loss": 0.3, "agreement": 100.0}},
        "timings.json": {"format": "proxylessnas/timings@1", "timings": [timing, {**timing, "file": "net.int8.onnx"}]},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def test_exported_files_their_loss_in_int8_and_their_timings_have_sections(runs, exported, text):
    page = pn.report(runs / "retrain", exported=exported, out=exported / "report.html").read_text()
    parts = Page(page)
    checked = parts.rows(page, "Files, each loaded in its runtime and compared with PyTorch")
    assert checked[1:] == [
        ["onnx", "net.onnx", "ONNX Runtime 1.32", "float32", "1 kB", *["1.2e-06 of 4.5e-05"] * 2, "100"]
    ]
    assert parts.rows(page, "On labelled images")[1:] == [["net.onnx", "91.20", "100.00", "500"]]
    assert parts.rows(page, "int8 beside float32")[1:] == [
        ["net.int8.onnx", "input float32, output float32", "90.80 of 91.20", "+0.40", "-0.30 to +1.10", "500", "98.60"]
    ]
    assert "net.int8.onnx has these layers in float32: stem.conv." in page
    assert "The weights of net.int8.onnx have 7 bits." in page
    timed = parts.rows(page, "Measured in the runtime, beside the table&#39;s prediction")
    assert timed[1] == [
        "net.onnx", "onnxruntime 1.32", "A board; 2 threads, batch 1", "2.5 ± 0.01", "2", "-20.0", "slower"
    ]  # fmt: skip
    assert parts.rows(page, "net.onnx: each layer, by the runtime&#39;s profile")[1] == [
        "stem",
        "conv_k3",
        "0.75",
        "0.5",
    ]
    costs = parts.rows(page, "net.int8.onnx: the layers that cost most when they alone are int8")
    assert costs[1] == ["classifier.linear", "0.25"]
    listed = [row[0] for row in re.findall(r"<tr><th scope=\"row\">(exported/[^<]*)()", page)]
    assert listed == ["exported/accuracy.json", "exported/export.json", "exported/timings.json"]
    assert "Files for runtimes" not in text


@pytest.mark.parametrize("name", ["export.json", "accuracy.json", "timings.json"])
@pytest.mark.parametrize(
    "inside",
    [
        [],
        {},
        5,
        {"files": [], "timings": {}},
        {"files": {"onnx": 5}, "timings": [5, {}]},
        {"files": {"onnx": {"file": "a", "files": 5, "parity": [], "dtype": "int8"}}},
    ],
)
def test_a_record_of_another_version_is_left_out(name, inside, runs, exported, facts):
    (exported / name).write_text(json.dumps(inside))
    Page(page_of(replace(facts, deployed=deployed_of(None, exported))))


def test_a_folder_without_exported_files_is_one_line(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"has no export\.json, expected a folder of proxyless-nas export"):
        pn.report(runs / "retrain", exported=tmp_path, out=tmp_path / "report.html")


def test_a_sweep_has_a_row_for_each_search(runs, tmp_path):
    result = json.loads((runs / "search" / "result.json").read_text())
    rows = [
        {"name": "one", "status": "finished", "seconds": 12.0, "error": None, "result": result},
        {"name": "two", "status": "failed", "seconds": 1.0, "error": "a <reason>", "result": None},
    ]
    record = {"format": "proxylessnas/sweep@1", "searches": rows}
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    page = page_of(collect([tmp_path]))
    cells = Page(page).rows(page, "Each search")
    assert cells[1][:2] == ["one", "finished"]
    assert cells[2][2] == "a &lt;reason&gt;"
    assert "Networks of the sweep" in page
    (tmp_path / "sweep.json").write_text(json.dumps({**record, "format": "other"}))
    with pytest.raises(ConfigError, match="is no record of a sweep"):
        collect([tmp_path])


def test_a_table_that_has_changed_is_not_shown(runs, tmp_path):
    shutil.copytree(runs / "search", tmp_path / "search")
    config = tmp_path / "search" / "config.yaml"
    config.write_text(re.sub(r"table_sha256: \w+", f"table_sha256: {'0' * 64}", config.read_text()))
    page = page_of(collect([tmp_path / "search"]))
    assert "No file with this hash was found: device, method and error are not known." in page
    assert "multiply-accumulates" in page


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("search/config.yaml", lambda text: text.replace("limits:", "limits: 5\nothers:")),
        ("search/config.yaml", lambda text: "search: 5\n"),
        ("search/config.yaml", lambda text: "search: [\n"),
        ("search/config.yaml", lambda text: re.sub(r"table_sha256: \w+", "table_sha256: [1]", text)),
        ("search/result.json", lambda text: text.replace('"top1"', '"top"')),
        ("search/architecture.json", lambda text: text[:100]),
        ("search/pareto.json", lambda text: '{"format": "proxylessnas/pareto@1", "members": [5, {"predicted": []}]}'),
        ("search/metrics.jsonl", lambda text: text + '{"step": 3, "train/loss": NaN}\n[5]\n{"step": "x"}\n'),
        ("retrain/config.yaml", lambda text: text.replace("retrain:", "retrain: 5\nothers:")),
        ("retrain/result.json", lambda text: "{}"),
        ("retrain/inputs.json", lambda text: "{}"),
        ("retrain/source.json", lambda text: '{"format": 5}'),
        ("result.json", lambda text: '{"networks": [5, {"name": "a", "top1": "x"}], "tries": 5}'),
        ("result.json", lambda text: "[]"),
    ],
)
def test_a_damaged_file_is_one_line_or_left_out(file, damage, runs, tmp_path):
    """The folder is that of a quick start of which a user has edited a part, or a full disk has cut one."""
    for name in ("search", "retrain", "table.yaml"):
        (shutil.copytree if (runs / name).is_dir() else shutil.copy)(runs / name, tmp_path / name)
    path = tmp_path / file
    path.write_text(damage(path.read_text() if path.exists() else ""))
    with contextlib.suppress(UserError):
        Page(page_of(collect([tmp_path])))


def test_a_name_with_html_in_it_stays_text(facts):
    wrong = "<script>alert(1)</script>\"'"
    page = page_of(replace(facts, title=wrong, settings={wrong: wrong}))
    Page(page)
    assert "<script" not in page


def test_text_and_graphics_have_the_contrast_of_aa():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    for palette in (LIGHT, DARK):
        for ground in ("page", "panel"):
            assert min(contrast(palette[name], palette[ground]) for name in TEXTS) >= 4.5
            assert min(contrast(palette[name], palette[ground]) for name in GRAPHICS) >= 3
    assert min(contrast(cell, letters) for cell, letters in shades()) >= 4.5
    assert LIGHT.keys() == DARK.keys()


def test_ticks_are_round_and_inside():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.631, 0.694) == [0.64, 0.66, 0.68]
    assert ticks(3, 3) == [3]
    for low, high in ((-5.3, 1e6), (1e-9, 3e-9), (99.1, 99.2)):
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        assert low <= found[0]
        assert found[-1] <= high + 1e-9 * abs(high)


def test_a_chart_puts_points_where_they_belong():
    drawn = chart("t", [Line("a", [(0, 0), (1, 1)])], [Marks("b", [(1, 0)], ["<x>"])], "x", "y")
    assert "&lt;x&gt;" in drawn
    (line,) = re.findall(r'class="line s0" d="M([\d. ]+)"', drawn)
    x0, y0, x1, y1 = map(float, line.split())
    assert x0 < x1
    assert y0 > y1  # up is less in SVG
    (cx, cy) = map(float, re.search(r'cx="([\d.]+)" cy="([\d.]+)" r="4"', drawn).groups())
    assert (cx, cy) == (x1, y0)
    assert chart("t", [Line("a", [(0, float("nan"))])], [], "x", "y") == ""
    assert len(thinned([(i, 1.0) for i in range(10_001)])) <= 240
    assert thinned([(i, float(i)) for i in range(480)])[0] == (1, 0.5)


def test_the_command_prints_the_path_and_a_wrong_one_is_one_line(runs, tmp_path, capsys):
    for out, status in ((tmp_path / "page.html", 0), (tmp_path / "page.pdf", 2), (tmp_path / "no" / "page.html", 2)):
        with pytest.raises(SystemExit) as end:
            main(["report", str(runs / "search"), "--out", str(out)])
        assert end.value.code == status
        printed = capsys.readouterr()
        assert (printed.out.strip() == str(out)) == (status == 0)
        assert len(printed.err.strip().splitlines()) == (status != 0)
    with pytest.raises(ConfigError, match=r"has no config\.yaml, expected the folder of a search"):
        pn.report(tmp_path, out=tmp_path / "page.html")


FRAMES = """<!DOCTYPE html><body><script>
const sizes = [360, 800, 1600], found = [];
for (const size of sizes) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${size}px;height:900px;border:0`;
  frame.src = "report.html";
  frame.onload = () => {
    const page = frame.contentDocument, root = page.documentElement, view = frame.contentWindow;
    for (const folded of page.querySelectorAll("details")) folded.open = true;
    const inside = element => element.closest(".scroll, pre, .jump, .unseen") && !element.matches(".scroll, pre");
    const wide = [...page.querySelectorAll("body *")].filter(
      element => !inside(element) && !element.closest("svg *") && element.getBoundingClientRect().right > size + 1);
    const radios = [...page.querySelectorAll(".slider input")], shown = [];
    for (const radio of radios) {
      radio.checked = true;
      shown.push([...page.querySelectorAll(".frames > div")].map(
        picture => view.getComputedStyle(picture).display !== "none"));
    }
    found.push({size, inner: view.innerWidth, scroll: root.scrollWidth, wide: wide.map(e => e.outerHTML.slice(0, 90)),
      shown, requests: view.performance.getEntriesByType("resource").length,
      background: view.getComputedStyle(page.body).backgroundColor});
    if (found.length === sizes.length) {
      const end = document.createElement("pre");
      end.id = "found";
      end.textContent = JSON.stringify(found);
      document.body.append(end);
    }
  };
  document.body.append(frame);
}
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="has no chromium")
def test_a_browser_shows_it_without_errors_or_overflow_at_any_width(facts, exported, tmp_path):
    """Headless Chromium opens the page at three widths: its console stays empty, it sends no request, the page does not
    scroll sideways, and each radio button shows its picture alone."""
    record = StageRecord(inputs={"settings": "a" * 64}, outputs={}, line="top-1 91.20 % " * 9, seconds=12.0)
    deployed = replace(deployed_of(None, exported), stages={"retrain": record}, classes={"cat": (10, 90.0)})
    text = page_of(replace(facts, deployed=deployed))
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
    ]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1700,3000", "--virtual-time-budget=10000"]
    ended = subprocess.run(
        [str(CHROMIUM), *options, "--dump-dom", (tmp_path / "frames.html").as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in ended.stderr, ended.stderr
    match = re.search(r'<pre id="found">(.*?)</pre>', ended.stdout)
    assert match, ended.stderr
    found = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert sorted(one["size"] for one in found) == [360, 800, 1600]
    for one in found:
        assert one["scroll"] <= one["inner"] == one["size"], one
        assert one["wide"] == []
        assert one["requests"] == 0
        assert one["background"] in ("rgb(255, 255, 255)", "rgb(13, 17, 23)")  # the style sheet was applied
        count = len(one["shown"])
        assert count > 1
        assert one["shown"] == [[i == k for k in range(count)] for i in range(count)]
