"""`proxyless-nas ship` runs a whole job, does nothing twice, and computes its numbers again."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

import proxyless_nas as pn
from engine.errors import ConfigError, UserError
from engine.files import make_folder
from engine.runs.inputs import record
from engine.runs.stages import StagesFile, read_stages, sha256_of, write_stages
from latency.table import LatencyTable, Verification
from proxyless_nas.commands import main
from proxyless_nas.commands.ship import NAMES
from proxyless_nas.shipping.config import ShipConfig
from proxyless_nas.shipping.files_on_images import _Beside
from proxyless_nas.shipping.folder import CONFIG, Job
from proxyless_nas.shipping.images import _images_of, changed_images
from proxyless_nas.shipping.stages import STAGES
from proxyless_nas.shipping.verification import compared
from supernet.space import Space, SpaceConfig

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings(tiny_search, formula_table, tmp_path_factory) -> dict[str, Any]:
    """A job whose table is of another device, so that nothing is timed."""
    table = tmp_path_factory.mktemp("tables") / "table.yaml"
    formula_table(Space(SpaceConfig.model_validate(tiny_search["space"]))).save(table)
    return {
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 2, "workers": 0},
        "search": {
            **tiny_search,
            "data": {"validation": 0.5},
            "search": tiny_search["search"] | {"arch_update": "two_path"},
            "limits": [{"metric": "latency", "table": str(table), "at": "50%"}],
        },
        "retrain": {"retrain": {"epochs": 1, "batch_size": 8}, "run": {"threads": 1}},
        "derive": {"at": ["80%"]},
        "export": {"to": ["onnx"], "normalise": True},
        "int8": {"calibration_images": 16, "max_drop": 100.0},
        "time": {"rounds": 2},
    }


@pytest.fixture(scope="module")
def shipped(settings, one_thread, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a job, and the lines that it said."""
    out, said = tmp_path_factory.mktemp("jobs") / "my job", []
    assert pn.ship(settings, out, say=said.append).report == out / "report.html"
    return out, said


def job_of(out: Path) -> Job:
    return Job(out.absolute(), ShipConfig.read(out / CONFIG))


def differing(out: Path, *stages: str) -> list[str]:
    """Returns the stage and the name of each number that differs."""
    found = compared(job_of(out), read_stages(out), stages=stages)
    return [f"{one.stage}: {one.what}" for one in found if not one.same]


def test_each_stage_says_its_result(shipped):
    out, said = shipped
    assert [line.partition(":")[0] for line in said] == [stage.name for stage in STAGES] == list(NAMES)
    results = {stage: line.partition(": ")[2] for stage, line in zip(NAMES, said, strict=True)}
    search = json.loads((out / "search" / "result.json").read_text())
    test = json.loads((out / "retrain" / "result.json").read_text())["test"]
    assert f"latency {search['limits'][0]['predicted']:.4g} ms predicted" in results["search"]
    assert results["retrain"] == f"top-1 {test['top1']:.2f} % on {test['images']} test images"
    assert results["export"] == f"top-1 onnx {test['top1']:.2f} %"
    assert (out / "export" / "my_job.onnx").exists()  # the network has the name of the job
    assert (out / "search" / "architecture-80percent.json").exists()


def test_the_page_shows_the_files_and_the_stages(shipped):
    out, _ = shipped
    page = (out / "report.html").read_text()
    for heading in ("Files for runtimes", "The stages of the job", "Each class of the test set"):
        assert heading in page
    assert ("Quantised to int8" in page) == (out / "int8" / "export.json").exists()
    assert "Measured in the runtime, beside the table" in page
    digest = json.loads((out / "export" / "export.json").read_text())["files"]["onnx"]["files"][0]["sha256"]
    assert re.search(rf"export/my_job\.onnx</th>.*?{digest}", page)
    assert len(page.encode()) < 1_500_000


def test_the_same_command_again_does_nothing_and_prints_the_page_last(shipped, settings, tmp_path, capsys):
    out, _ = shipped
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(settings))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(SystemExit) as end:
        main(["ship", str(config), "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 0
    assert [line.split(": ")[1] for line in lines[:-1]] == ["done before"] * len(STAGES)
    assert lines[-1] == str(out / "report.html")
    assert {path: path.read_bytes() for path in before} == before


def test_a_quick_starts_folder_is_refused_before_anything_is_written(settings, tmp_path):
    write_stages(tmp_path, StagesFile(job="quickstart"))
    with pytest.raises(ConfigError, match="holds a job of proxyless-nas quickstart, whose files this one would delete"):
        pn.ship(settings, tmp_path)
    assert not (tmp_path / CONFIG).exists()


@pytest.mark.parametrize("block", [0, 1])
def test_the_files_for_own_photographs_on_the_page_are_valid(block, checkout):
    text = (checkout / "docs" / "ship.md").read_text().split("**Your own photographs**")[1].split("## The stages")[0]
    first, second = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL))
    config = ShipConfig.read(first if block == 0 else first | second)
    assert config.search.space.classes == 6
    for part in (config.search.data, config.retrain.data):
        assert (str(part.root), part.test) == ("photos", 0.2)
    assert config.search.measure.device == ("cpu" if block == 0 else "external")


def test_every_number_is_the_same_when_it_is_computed_again(shipped):
    out, _ = shipped
    found = []
    assert pn.verify_ship(out, say=found.append)
    what = {f"{one.stage}: {one.what}" for one in found}
    assert len(what) > 40
    assert {
        "search: latency predicted [ms]",
        "derive: log probability",
        "derive: the network, derived exactly",
        "retrain: top1 % on the test images",
        "export: onnx: largest difference on photographs",
        "export: onnx: top1 on the test images",
        "report: the page",
    } <= what


def edited(key: str, value: Any):
    """Returns an edit of a JSON file: the value at `a.b.0` becomes another one."""

    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        here, *names = [content, *key.split(".")]
        for name in names[:-1]:
            here = here[int(name)] if isinstance(here, list) else here[name]
        here[int(names[-1]) if isinstance(here, list) else names[-1]] = value
        path.write_text(json.dumps(content))

    return edit


def replaced(old: str, new: str):
    def edit(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return edit


def flipped(path: Path) -> None:
    """Changes a byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("file", "edit", "stage", "named"),
    [
        ("search/result.json", edited("limits.0.predicted", 1.0), "search", "search: latency predicted [ms]"),
        ("search/result.json", edited("params", 7), "search", "search: parameters"),
        ("search/result.json", edited("met", False), "search", "search: met"),
        ("search/result.json", edited("top1", 99.0), "derive", "derive: top-1 % with the supernet's weights"),
        ("search/result.json", edited("log_probability", -0.1), "derive", "derive: log probability"),
        ("search/architecture.json", edited("complexity.macs", 7), "search", "search: its numbers"),
        ("derive/derivation.json", edited("log_probability", -0.1), "derive", "derive: log_probability in derivation"),
        ("derive/architecture.json", edited("predicted.0.value", 1.0), "derive", "derive: derive/architecture.json"),
        ("search/pareto.json", edited("members.0.complexity.macs", 7), "derive", "derive: architecture-80percent.json"),
        ("tables/table.yaml", replaced("median_ms: ", "median_ms: 1"), "search", "search: input tables/table.yaml"),
        ("retrain/result.json", edited("test.top1", 99.0), "retrain", "retrain: top1 % on the test images"),
        ("retrain/result.json", edited("test.loss", 0.1), "retrain", "retrain: loss on the test images"),
        ("evaluate/evaluation.json", edited("classes.class 0.top1", 1.0), "evaluate", "evaluate: top-1 % of class"),
        ("export/export.json", edited("files.onnx.parity.random.max_abs_diff", 1.0), "export", "export: onnx: largest"),
        ("export/accuracy.json", edited("onnx.agreement", 1.0), "export", "export: onnx: agreement on the test images"),
        ("export/my_job.onnx", flipped, "export", "export: onnx: SHA-256 of my_job.onnx"),
        ("time/timings.json", edited("timings.0.prediction.ms", 1.0), "time", "time: my_job.onnx: predicted ms"),
        ("int8/export.json", edited("files.onnx_int8.drop.points", 9.0), "int8", "int8: my_job.int8.onnx: drop, po"),
        ("report.html", replaced("<h1>", "<h1>A "), "report", "report: the page"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sealed", [False, True], ids=["", "sealed"])
def test_a_number_that_somebody_has_changed_is_named(file, edit, stage, named, sealed, shipped, tmp_path):
    """The change is found by the file's hash, and, if the record of hashes has been changed as well, by computing the
    number again."""
    out = tmp_path / "my job"
    shutil.copytree(shipped[0], out)
    if file.startswith("int8/") and not (out / file).exists():
        pytest.skip("no installed format has int8 files")
    edit(out / file)
    record = read_stages(out)
    owner = next(name for name, one in record.stages.items() if file in one.outputs)
    if not sealed:
        assert any(line.startswith(f"{owner}: SHA-256 of {file}") for line in differing_hashes(out))
        return
    record.stages[owner].outputs[file] = sha256_of(out / file)
    write_stages(out, record)
    assert any(line.startswith(named) for line in differing(out, stage)), differing(out, stage)


def differing_hashes(out: Path) -> list[str]:
    from engine.runs.stages import changed_files

    record = read_stages(out)
    return [f"{name}: SHA-256 of {file}" for name, one in record.stages.items() for file in changed_files(one, out)]


def test_another_network_in_place_of_the_derived_one_is_named(shipped, tmp_path):
    out = tmp_path / "my job"
    shutil.copytree(shipped[0], out)
    path = out / "search" / "architecture.json"
    own = pn.Architecture.from_json(path.read_text())
    other = pn.Architecture(own.space, (own.paths[0], 1 - own.paths[1], *own.paths[2:]), own.name)
    path.write_text(other.to_json(json.loads(path.read_text())["predicted"]))
    found = differing(out, "search", "derive")
    assert "derive: the network, derived exactly" in found
    assert "search: MACs" in found


def test_the_command_that_verifies_prints_both_numbers_and_exits_with_1(shipped, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("proxyless_nas.shipping.job.compared", partial(compared, stages=("retrain",)))
    out = tmp_path / "my job"
    shutil.copytree(shipped[0], out)
    edited("test.top1", 99.0)(out / "retrain" / "result.json")
    with pytest.raises(SystemExit) as end:
        main(["ship", "--verify", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert any(re.match(r"DIFFERS  retrain: top1 % on the test images: recorded 99, again \d", line) for line in lines)
    assert re.fullmatch(r"\d+ of \d+ are the same; \d+ DIFFER", lines[-1])


def test_a_changed_setting_repeats_what_it_concerns(shipped, settings, tmp_path):
    out = tmp_path / "my job"
    shutil.copytree(shipped[0], out)
    said: list[str] = []
    pn.ship(settings, out, overrides=["retrain.retrain.epochs=2"], until="evaluate", say=said.append)
    assert [line for line in said if "anew" in line] == [
        "retrain: settings has changed, so it runs anew",
        "evaluate: weights has changed, so it runs anew",
    ]
    assert json.loads((out / "retrain" / "result.json").read_text())["epochs"] == 2
    assert "input weights" in " ".join(differing(out, "export"))  # what has not run again yet is out of date


def test_a_job_that_was_renamed_and_whose_table_is_elsewhere_is_the_same(shipped, tmp_path):
    """A table's file that is gone counts as its copy, and the page has the name that the job had."""
    out = tmp_path / "renamed"
    shutil.copytree(shipped[0], out)
    source = job_of(out).tables[0].path
    kept = source.rename(tmp_path / "table.yaml")
    try:
        assert differing(out, "table", "report") == []
    finally:
        kept.rename(source)


def test_a_job_that_was_moved_goes_on(shipped, settings, tmp_path):
    """Its search is derived again from its checkpoint, and gives the file from which the next stages began."""
    out, said = tmp_path / "elsewhere" / "my job", []
    shutil.copytree(shipped[0], out)
    (out / "search" / "result.json").unlink()
    pn.ship(settings, out, until="retrain", say=said.append)
    assert said[1] == "search: search/result.json not as this stage made it, so that is made again"
    assert said[-1].startswith("retrain: done before"), said
    assert str(out) not in (out / "derive" / "architecture.json").read_text()


@pytest.mark.parametrize("part", ["search", "retrain"])
def test_changed_images_are_named_before_a_stage_is_used_again(part, shipped, settings, tmp_path, monkeypatch):
    out = tmp_path / "my job"
    shutil.copytree(shipped[0], out)
    for module in ("search.scoring", "retrain.inputs"):
        monkeypatch.setattr(f"{module}.of_images", lambda images: {"number": len(images) - 1})
    stage = next(stage for stage in STAGES if stage.name == part)
    with pytest.raises(ConfigError, match=rf"{part}: number of the training images changed from \d+ to .*: the stage"):
        stage.check(job_of(out))
    assert f"{part}: images" in differing(out, part)
    with pytest.raises(ConfigError, match="search: number of the training images changed"):
        pn.ship(settings, out, say=list)


def test_a_job_may_run_each_module_that_its_search_names(settings, tmp_path):
    metric, form, estimator = (f"docs/examples/own_{name}.py" for name in ("metric", "loss_form", "estimator"))
    limits = [*settings["search"]["limits"], {"metric": "own", "function": f"{metric}:attentions", "below": 3}]
    learning = {"gate_gradient": f"{estimator}:halfway", "loss": {"form": f"{form}:AugmentedLagrangian", "weight": 1}}
    search = settings["search"] | {"limits": limits, "search": settings["search"]["search"] | learning}
    job = Job(tmp_path, ShipConfig.read(settings | {"search": search}))
    assert set(job.modules) == {metric, form, estimator}


def test_an_image_that_was_added_is_named(settings, tmp_path):
    """The names and sizes of image files are recorded when a search begins."""
    for label in ("cat", "dog"):
        for i in range(8):
            path = tmp_path / "images" / "train" / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i).save(path)
    shutil.copytree(tmp_path / "images" / "train", tmp_path / "images" / "test")
    data = {"name": "folder", "root": str(tmp_path / "images"), "workers": 0}
    config = ShipConfig.read(settings | {"data": data})
    job = Job(tmp_path / "job", config)
    record(make_folder(job.out / "search"), _images_of(job, "search"))
    assert changed_images(job, "search") == []
    Image.new("L", (8, 8), 9).save(tmp_path / "images" / "train" / "cat" / "new.png")
    (line,) = changed_images(job, "search")
    assert re.fullmatch(r"1 .* is new \('.*cat/new\.png'\)", line)
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"ship\.yaml: search: data\.root"):
        changed_images(job, "search")


def test_timings_of_another_device_are_kept_and_shown(shipped, settings, tmp_path):
    """They are beside the files, where a kit's results are read; the job's own are not there."""
    out, said = tmp_path / "my job", []
    shutil.copytree(shipped[0], out)
    entry = json.loads((out / "time" / "timings.json").read_text())["timings"][0]
    entry["device"] |= {"name": "a board", "fingerprint": "of a board"}
    theirs = json.dumps({"format": "proxylessnas/timings@1", "timings": [entry]})
    (out / "export" / "timings.json").write_text(theirs)
    pn.ship(settings, out, overrides=["time.rounds=3"], say=said.append)
    assert [line for line in said if "anew" in line] == [
        "time: settings has changed, so it runs anew",
        "report: time and settings and export/timings.json have changed, so it runs anew",
    ]
    assert (out / "export" / "timings.json").read_text() == theirs
    assert "a board" in (out / "report.html").read_text()


def test_the_networks_for_other_bounds_belong_to_the_stage_that_makes_them(shipped):
    """They do not become files of the search if result.json is deleted and the search ends once more beside them."""
    job, record = job_of(shipped[0]), read_stages(shipped[0])
    search = next(stage for stage in STAGES if stage.name == "search")
    again = {str(path.relative_to(job.out)) for path in search.run(job, record.stages).files}
    assert again == set(record.stages["search"].outputs)


def test_the_first_of_equal_logits_is_the_class_that_a_file_chooses():
    """An int8 file's drop is computed in the same way. The accuracy counts a label only if no other logit is as
    large."""

    class Tied:
        metadata = {  # noqa: RUF012
            "input": {"layout": "nchw", "shape": ["batch", 1, 2, 2], "values": "normalised pixels"},
            "preprocessing": {"mean": [0.0], "std": [1.0]},
        }

        def __call__(self, images):
            return torch.tensor([[1.0, 3.0, 3.0]]).repeat(len(images), 1).numpy()

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    logits = _Beside(Tied(), network)(torch.zeros(2, 1, 2, 2))
    assert (logits[:, 1] > logits[:, 2]).all()
    torch.testing.assert_close(logits[0], torch.tensor([1.0, 3.0, 3.0]))


def test_a_search_that_was_stopped_goes_on(settings, tmp_path, monkeypatch):
    """The search is interrupted after a checkpoint, and once more before its result is written."""
    from search.loop import Search

    out, said = tmp_path / "job", []
    step = Search.step

    def stop_after_2(self, progress):
        step(self, progress)
        if self.state.step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Search, "step", stop_after_2)
        with pytest.raises(KeyboardInterrupt):
            pn.ship(settings, out, until="search", say=said.append)
    assert read_stages(out).stages["search"].outputs is None
    pn.ship(settings, out, until="search", say=said.append)
    assert "search: goes on" in said
    assert json.loads((out / "search" / "result.json").read_text())["resumed_at"] == 2


def test_a_table_that_the_search_would_refuse_is_measured_again_by_the_same_command(settings, tmp_path, monkeypatch):
    def busy(config, *, seed, verify):
        table = LatencyTable.load(settings["search"]["limits"][0]["table"])
        errors = {"mape_percent": 12.3, "rmse_ms": 1.0, "bias_percent": 0.0, "mape_percent_thirds": [1.0, 1.0, 1.0]}
        same = dict.fromkeys(("table", "raw", "constant", "macs"), errors)
        record = {"date": "2026-01-31", "networks": 6, "measured_range_ms": [1.0, 2.0], "noise_mape_percent": 8.0}
        record |= {"holds": False, "measured_ms": [1.0] * 6, "predicted_ms": [1.0] * 6, **same}
        return table.model_copy(update={"verification": Verification.model_validate(record)})

    monkeypatch.setattr("proxyless_nas.shipping.training.calmest_table", busy)
    elsewhere = [f"search.limits.0.table={tmp_path / 'none.yaml'}"]
    for _ in range(2):
        with pytest.raises(UserError, match=r"none\.yaml: .* with an error of 12\.3 %; other work"):
            pn.ship(settings, tmp_path / "job", overrides=elsewhere, until="table", say=list)
    accepted = [*elsewhere, "search.limits.0.largest_error=13"]
    assert pn.ship(settings, tmp_path / "job", overrides=accepted, until="table", say=list).met is None
    assert (tmp_path / "job" / "tables" / "none.yaml").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("export.to=[onxx]", r"export\.to: .*onxx.*Did you mean 'onnx'"),
        ("int8.to=[torchscript]", r"int8\.to: torchscript has no int8 files, expected onnx"),
        ("int8={to: [litert], weight_bits: 7}", r"int8\.weight_bits: got 7, but weights of litert have 8 bits"),
        ("derive.at=[300%]", r"derive\.at: got '300%', expected a number .* a percentage from 0% to 100%"),
        (
            "search.limits=[{metric: peak_activation_bytes, below: 100k}]",
            r"derive\.at: has bounds, but the search has no limit",
        ),
    ],
)
def test_what_a_late_stage_would_refuse_is_refused_before_the_first(override, message, settings, tmp_path):
    with pytest.raises(UserError, match=message):
        pn.ship(settings, tmp_path / "job", overrides=[override], say=list)
    assert not (tmp_path / "job").exists()
    if not override.startswith("search"):  # stages that do not run now may be impossible here
        pn.ship(settings, tmp_path / "job", overrides=[override], until="table", say=list)


def test_parts_may_be_names_with_some_keys_replaced(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("data: {name: digits}\nsearch: {extends: quickstart_cpu, run: {seed: 3}}\nretrain: quickstart\n")
    config = ShipConfig.read(path, ["search.search.epochs=7", "retrain.retrain.epochs=5", "data.workers=1"])
    assert (config.search.data.name, config.retrain.data.name) == ("digits", "digits")
    assert config.search.data.validation == 0.3  # of quickstart_cpu
    assert (config.search.run.seed, config.search.search.epochs, config.retrain.retrain.epochs) == (3, 7, 5)
    assert ShipConfig.read(config) is config
    assert ShipConfig.read(path, ["retrain=imagenet"]).retrain.retrain.epochs == 300


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("search: quickstart_cpu\n", "retrain: is missing, expected the name of a configuration"),
        (
            "search: quickstart_cup\nretrain: quickstart\n",
            "quickstart_cup: no such file.* Did you mean 'quickstart_cpu'",
        ),
        ("search: [1]\nretrain: quickstart\n", r"search: got \[1\], expected the name of a configuration"),
        ("search: {extends: quickstart_cpu, run: {sed: 3}}\nretrain: quickstart\n", "search.run.sed: unknown key"),
        ("search: quickstart_cpu\nretrain: quickstart\ntabel: {verify: 9}\n", "tabel: unknown key.*'table'"),
        ("search: quickstart_cpu\nretrain: quickstart\ndata: 5\n", "data: got 5, expected a section of keys"),
        ("search: quickstart_cpu\nretrain: quickstart\nderive: {at: 5}\n", "derive.at: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(text, line, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=line) as error:
        ShipConfig.read(path)
    assert "\n" not in str(error.value)
    assert "job.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "CONFIG: is missing"),
        (["ship/digits_cpu"], "--out: is missing"),
        (["--verify", "nowhere"], "nowhere: holds no job of several stages"),
        (["ship/digits_cpu", "--verify", "x"], "--verify: goes with --timings alone"),
        (["ship/digits_cpu", "--out", "x", "--timings"], "--timings: goes with --verify"),
    ],
)
def test_a_wrong_command_is_one_line(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["ship", *words])
    assert end.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert line in said
    assert list(tmp_path.iterdir()) == []
