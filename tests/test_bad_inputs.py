"""Every mistake of a user ends a program with one line that names the place and the remedy, and with exit status 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engine.runs.checkpoints import Checkpoints
from tests.processes import python

Files = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A command that fails. script: the script that runs. words: the words that its one line has to contain. prepare: a
    function that spoils a file first; None if none is needed."""

    script: str
    arguments: tuple[str, ...]
    words: tuple[str, ...]
    prepare: Callable[[Path, Files], object] | None = None


CASES: dict[str, Case] = {}
SEARCH = ("run_search", "search.yaml", "--out", "new")
RETRAIN = ("run_retrain", "retrain.yaml", "--architecture", "run/architecture.json", "--out", "new")
EVALUATE = ("evaluate", "retrain.yaml", "--architecture", "run/architecture.json", "--checkpoint")
RESUME = ("run_search", "search.yaml", "--out", "run", "--resume")
MEASURE = ("measure_latency", "search.yaml", "--out", "made.yaml")
IMPORT = ("import_latency", "official.yaml", "--out", "made.yaml")
DERIVE = ("derive", "run")


def case(name: str, door: tuple[str, ...], *arguments: str, says: tuple[str, ...]) -> None:
    """A case whose mistake is on the command line."""
    CASES[name] = Case(door[0], (*door[1:], *arguments), says)


def spoiled(door: tuple[str, ...], *arguments: str, says: tuple[str, ...]) -> Callable[[Any], None]:
    """A case whose mistake is in a file, named after the function that makes it."""

    def enter(prepare: Callable[[Path, Files], object]) -> None:
        CASES[prepare.__name__.replace("_", "-")] = Case(door[0], (*door[1:], *arguments), says, prepare)

    return enter


# --- the file itself -------------------------------------------------------------------------------------------------

case("config-absent", ("run_search", "none.yaml", "--out", "new"), says=("none.yaml", "no such file"))
case(
    "config-mistyped",
    ("run_search", "saerch.yml", "--out", "new"),
    says=("no such file", "Did you mean 'search.yaml'?"),
)
case("config-is-a-device", ("run_search", "/dev/zero", "--out", "new"), says=("/dev/zero: is a device", "YAML"))
case("config-is-a-folder", ("run_search", "run", "--out", "new"), says=("run: is a folder", "YAML", "data.root=run"))
case("config-below-a-file", ("run_search", "search.yaml/a", "--out", "new"), says=("search.yaml/a", "cannot be read"))


@spoiled(SEARCH, says=("search.yaml: is empty", "sections"))
def config_empty(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("")


@spoiled(SEARCH, says=("search.yaml:9:", "has more than 60000 values"))
def config_with_an_alias_bomb(folder: Path, files: Files) -> None:
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    (folder / "search.yaml").write_text("\n".join(["", "", "", "a0: &a0 [x]", *lists]))


@spoiled(SEARCH, says=("search.yaml: key0: unknown key", "and many more"))
def config_with_thousands_of_unknown_keys(folder: Path, files: Files) -> None:
    text = (folder / "search.yaml").read_text()
    (folder / "search.yaml").write_text("\n".join([text, *(f"key{i}: {{a: 1}}" for i in range(10_000))]))


@spoiled(SEARCH, says=("search.yaml: not YAML: has more than 2 million characters",))
def config_with_a_value_of_ten_megabytes(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text(f"search: {'x' * 10_000_000}\n")


@spoiled(("run_search", "loop.yaml", "--out", "new"), says=("loop.yaml: cannot be read", "symbolic links"))
def config_that_is_a_link_to_itself(folder: Path, files: Files) -> None:
    (folder / "loop.yaml").symlink_to("loop.yaml")


@spoiled(SEARCH, says=("search.yaml: is not UTF-8",))
def config_binary(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_bytes(b"\x93NUMPY\xff\xfe\x00")


@spoiled(SEARCH, says=("search.yaml: got", "mapping of sections"))
def config_is_a_list(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("[space, data]")


@spoiled(SEARCH, says=("search.yaml:3:4:", "line 2", "check the indentation"))
def config_bad_yaml(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("search:\n  epochs: [1, 2\nrun: {}\n")


@spoiled(SEARCH, says=("search.yaml:2:", "indent with spaces"))
def config_with_tabs(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("search:\n\tepochs: 1\n")


@spoiled(SEARCH, says=("search.yaml:3:", "'epochs' is given twice"))
def config_duplicate_key(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("search:\n  epochs: 1\n  epochs: 2\n")


@spoiled(SEARCH, says=("extends", "search.yaml", "itself"))
def config_extends_a_cycle(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("extends: other.yaml\n")
    (folder / "other.yaml").write_text("extends: search.yaml\n")


@spoiled(SEARCH, says=("nowhere.yaml: no such file", "search.yaml extends"))
def config_extends_an_absent_file(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("extends: nowhere.yaml\n")


@spoiled(SEARCH, says=("search.yaml: extends", "file name"))
def config_extends_a_number(folder: Path, files: Files) -> None:
    (folder / "search.yaml").write_text("extends: 3\n")


# --- keys and values -------------------------------------------------------------------------------------------------

case("override-without-equals", SEARCH, "search.epochs", says=("'search.epochs'", "key=value"))
case("override-into-a-scalar", SEARCH, "run.threads.most=2", says=("run.threads in search.yaml", "single value 1"))
case("override-past-a-list", SEARCH, "limits.3.at=50%", says=("limits", "a list of 1", "'3'"))
case("override-not-yaml", SEARCH, "search.epochs=[1", says=("'[1'", "not a YAML value"))
case("section-unknown", SEARCH, "serach.epochs=1", says=("search.yaml: serach: unknown key", "Did you mean 'search'?"))
case("key-unknown", SEARCH, "search.warmup_epoch=1", says=("search.warmup_epoch", "Did you mean 'warmup_epochs'?"))
case("key-in-another-section", SEARCH, "run.epochs=1", says=("run.epochs: unknown key", "Did you mean 'search.epochs'"))
case("section-is-a-number", SEARCH, "search=3", says=("search: got 3", "a section"))
case("section-empty", SEARCH, "space=null", says=("search.yaml: space: is empty", "section"))
case("text-for-a-number", SEARCH, "search.epochs=many", says=("search.epochs: got 'many'", "whole number"))
case("time-of-day-for-a-number", SEARCH, "search.lr=1:30.5", says=("'1:30.5' is no number", "90.5", "in full"))
case("underscore-in-a-number", SEARCH, "search.epochs=1_000", says=("search.epochs: got '1_000'", "write 1000"))
case("binary-number", SEARCH, "search.epochs=0b11", says=("search.epochs: got '0b11'", "write 3"))
case("yes-for-a-bool", SEARCH, "run.channels_last=yes", says=("run.channels_last: got 'yes'", "write true"))
case("number-of-5000-digits", SEARCH, f"run.seed={'1' * 5000}", says=("a whole number of 5000 digits", "at most 400"))
case("learning-rate-of-1e300", SEARCH, "search.arch_lr=1e300", says=("search.arch_lr: got 1.0e+300", "at most 100"))
case("space-of-a-billion-edges", SEARCH, "space.stages.0.depth=1000000000", says=("depth: got 1000000000", "at most"))
case("quoted-number", SEARCH, "search.epochs='3'", says=("search.epochs: got '3'", "remove the quotes"))
case("fraction-for-a-whole-number", SEARCH, "search.epochs=1.5", says=("search.epochs: got 1.5", "whole number"))
case("bool-for-a-whole-number", SEARCH, "search.epochs=true", says=("search.epochs: got true", "whole number"))
case("bool-for-a-number", SEARCH, "search.lr=false", says=("search.lr: got false", "number"))
case("number-for-a-bool", SEARCH, "run.channels_last=1", says=("run.channels_last: got 1", "true or false"))
case("nan", SEARCH, "search.lr=.nan", says=("search.lr: got .nan", "finite number"))
case("infinity", SEARCH, "search.lr=.inf", says=("search.lr: got .inf", "finite number"))
case("negative", SEARCH, "search.arch_lr=-1", says=("search.arch_lr: got -1", "above 0"))
case("seed-too-large", SEARCH, f"run.seed={1 << 70}", says=("run.seed: got", "below"))
case(
    "paths-without-two-images-each", SEARCH, "search.paths_per_step=5", "search.batch_size=8",
    says=("search.paths_per_step: 5 networks would share a batch of 8 images", "at most 4", "raise batch_size"),
)  # fmt: skip
case("batch-of-one", SEARCH, "search.batch_size=1", says=("search.batch_size: got 1", "at least 2"))
case("update-unknown", SEARCH, "search.arch_update=twopath", says=("search.arch_update", "Did you mean 'two_path'?"))
case("betas-out-of-range", SEARCH, "search.arch_betas=[0, 1]", says=("search.arch_betas: got", "[0, 1)"))
case("betas-too-few", SEARCH, "search.arch_betas=[0.5]", says=("search.arch_betas: got", "2 entries"))
case("validation-share-above-1", SEARCH, "data.validation=1.5", says=("data.validation: got 1.5", "between 0 and 1"))
case("threads-zero", SEARCH, "measure.threads=0", says=("measure.threads: got 0", "at least 1"))
case(
    "int8-in-pytorch", MEASURE, "measure.dtype=int8", says=("measure.dtype: got 'int8' with runtime pytorch", "litert")
)
case("float16-on-the-cpu", MEASURE, "measure.dtype=float16", says=("measure.dtype: got 'float16'", "bfloat16"))

# --- limits and losses -----------------------------------------------------------------------------------------------

LIMIT = "limits.0"
case("no-limit", SEARCH, "limits=[]", says=("limits: got []", "at least 1"))
case("percent-without-number", SEARCH, f"{LIMIT}.at=half%", says=("limits.0.at: got 'half%'", "50%"))
case("percent-negative", SEARCH, f"{LIMIT}.at=-5%", says=("limits.0.at: got '-5%'", "50%"))
case("percent-above-100", SEARCH, f"{LIMIT}.at=101%", says=("limits.0.at: got '101%'", "50%"))
case("bound-negative", SEARCH, f"{LIMIT}.at=-5", says=("limits.0.at: got -5", "above 0"))
case("bound-with-a-unit", SEARCH, f"{LIMIT}.at=12.5ms", says=("limits.0.at: got '12.5ms'", "write 12.5"))
case(
    "bound-in-millions-in-small-letters", SEARCH, "limits=[{metric: macs, below: 300m}]",
    says=("limits.0.below: got '300m'", "write 300M"),
)  # fmt: skip
case("at-and-below", SEARCH, f"{LIMIT}.below=50%", says=("limits.0: expected exactly one of", "`at`", "`below`"))
case("neither-at-nor-below", SEARCH, f"{LIMIT}.at=null", says=("limits.0: expected exactly one of", "`at`", "`below`"))
case("metric-unknown", SEARCH, f"{LIMIT}.metric=flops", says=("limits.0.metric: got 'flops'", "macs"))
case("latency-without-table", SEARCH, f"{LIMIT}.table=null", says=("limits.0.table: is missing",))
case("macs-with-table", SEARCH, f"{LIMIT}.metric=macs", says=("limits.0.table: remove it", "macs"))
case(
    "two-limits-alike", SEARCH, "limits=[{metric: macs, at: 50%}, {metric: macs, below: 60%}]",
    says=("limits: two entries", "keep one"),
)  # fmt: skip
case("bound-out-of-reach", SEARCH, f"{LIMIT}.at=1e6", says=("search.yaml: limits.0.at: got 1e+06 ms", "reach", "50%"))
case("loss-unknown", SEARCH, "search.loss.form=projected", says=("search.loss.form", "Did you mean 'projection'?"))
case("loss-without-form", SEARCH, "search.loss.weight=1", says=("search.loss.form: is missing", "hinge"))
case("loss-key-of-another-form", SEARCH, "search.loss={form: hinge, rho: 1}", says=("search.loss.rho: unknown key",))
case(
    "reinforce-with-a-loss", SEARCH, "search.arch_update=reinforce", "search.loss.form=hinge",
    says=("search.loss: reinforce has a reward", "remove it"),
)  # fmt: skip
case("reinforce-section-alone", SEARCH, "search.reinforce.samples=3", says=("search.reinforce:", "arch_update"))
case(
    "regression-of-one", SEARCH, "search.regression.samples=1", says=("search.regression.samples: got 1", "at least 2")
)
case(
    "regression-with-a-loss-of-gradients", SEARCH, "search.loss.form=hinge",
    says=("search.loss: hinge", "regression projects", "remove it"),
)  # fmt: skip
case(
    "leave-one-out-of-one", SEARCH, "search.arch_update=reinforce",
    "search.reinforce={samples: 1, baseline: leave_one_out}", says=("search.reinforce.samples: got 1", "at least 2"),
)  # fmt: skip
case(
    "mul-log-with-two-limits", SEARCH, "search.arch_update=two_path", "search.loss.form=mul_log",
    "limits=[{metric: macs, at: 50%}, {metric: params, below: 60%}]", says=("search.loss: mul_log", "one limit"),
)  # fmt: skip


@spoiled(
    SEARCH,
    "limits=[{metric: latency, table: table.yaml, below: 0%}, {metric: macs, below: 0%}]",
    says=("no architecture meets the limits together", "smallest reachable", "raise a bound"),
)
def limits_that_contradict(folder: Path, files: Files) -> None:
    """Where the op of fewer MACs is the slower one, both minima cannot be had."""
    table = files["table.yaml"]
    for entry in table["entries"].values():
        entry["median_ms"] = 10 - entry["median_ms"]
    save(folder, "table.yaml", table)


@spoiled(
    SEARCH,
    "search.arch_update=two_path",
    "search.loss.form=mul_log",
    says=("limits.0", "mul_log", "exceed 1", "projection"),
)
def mul_log_below_one(folder: Path, files: Files) -> None:
    table = files["table.yaml"]
    for entry in table["entries"].values():
        entry["median_ms"] /= 1000
    save(folder, "table.yaml", table)


# --- the space -------------------------------------------------------------------------------------------------------

STAGE = "space.stages.1"
case(
    "candidate-unknown", SEARCH, f"{STAGE}.candidates=[mbconv_k3_e10]",
    says=("stages.1.candidates: unknown candidate 'mbconv_k3_e10'", "Did you mean 'mbconv_k3_e1'?"),
)  # fmt: skip
case("candidate-twice", SEARCH, f"{STAGE}.candidates=[proj, proj]", says=("stages.1.candidates", "listed twice"))
case(
    "skip-on-a-strided-edge", SEARCH, f"{STAGE}.first=[conv_k1, skip]",
    says=("stages.1.first", "'skip'", "edge 0", "residual"),
)  # fmt: skip
case("only-skip", SEARCH, f"{STAGE}.candidates=[skip]", says=("stages.1.candidates", "no candidate is left"))
case(
    "pooling-that-changes-channels", SEARCH, f"{STAGE}.candidates=[maxpool_k3, conv_k1]",
    says=("stages.1.candidates", "'maxpool_k3'", "8 channels into 16", "first"),
)  # fmt: skip
case("no-stage", SEARCH, "space.stages=[]", says=("space.stages: got []", "at least 1"))
case("stage-not-a-section", SEARCH, "space.stages=[mbconv_k3_e1]", says=("space.stages.0: got 'mbconv_k3_e1'",))
case("kernel-even", SEARCH, "space.stem.kernel=4", says=("space.stem.kernel: got 4", "1, 3, 5 or 7"))
case("width-zero", SEARCH, f"{STAGE}.width=0", says=("space.stages.1.width: got 0", "at least 1"))
case(
    "nothing-to-search",
    SEARCH,
    "space.stages=[{width: 8, candidates: [proj]}]",
    "limits=[{metric: macs, below: 100%}]",
    says=("space.stages: no edge has more than one candidate",),
)
case(
    "candidate-file-absent", SEARCH, "space.candidate_modules=[mine.py]",
    says=("space.candidate_modules", "no such file 'mine.py'"),
)  # fmt: skip
case(
    "candidate-module-absent", SEARCH, "space.candidate_modules=[no_such_package.ops]",
    says=("space.candidate_modules", "no_such_package"),
)  # fmt: skip


@spoiled(SEARCH, "space.candidate_modules=[mine.py]", says=("space.candidate_modules", "mine.py", "line 2"))
def candidate_file_with_a_syntax_error(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("import math\ndef :\n")


@spoiled(
    SEARCH, "space.candidate_modules=[mine.py]",
    says=("search.yaml: space.candidate_modules: cannot import 'mine.py': mine.py, line 3: NameError: name 'wide'",),
)  # fmt: skip
def candidate_file_with_an_unknown_name(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("def width():\n    \n    return wide\n\nWIDTH = width()\n")


@spoiled(SEARCH, "space.candidate_modules=[mine.py]", says=("mine.py, line 2: ZeroDivisionError: division by zero",))
def candidate_file_that_divides_by_zero(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("import math\nshare = 1 / 0\n")


@spoiled(SEARCH, "space.candidate_modules=[mine.py]", says=("mine.py, line 1: SystemExit: 0; correct it",))
def candidate_file_that_exits(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("raise SystemExit(0)\n")


@spoiled(SEARCH, "space.candidate_modules=[mine.py]", says=("mine.py, line 1: JSONDecodeError: Expecting value",))
def candidate_file_whose_library_raises(folder: Path, files: Files) -> None:
    """The line is the one in the user's file, not the one inside the library."""
    (folder / "mine.py").write_text("import json; json.loads('')\n")


# --- latency tables --------------------------------------------------------------------------------------------------

case(
    "table-absent", SEARCH, f"{LIMIT}.table=tables/none.yaml",
    says=("limits.0.table: no file tables/none.yaml", "-nas measure search.yaml --out tables/none.yaml --verify 40"),
)  # fmt: skip
case(
    "external-table-absent", SEARCH, f"{LIMIT}.table=tables/none.yaml", "measure.device=external",
    says=("no file tables/none.yaml", "by import, kit or fit", "proxyless-nas import SOURCE --out tables/none.yaml"),
)  # fmt: skip
case(
    "table-mistyped", SEARCH, f"{LIMIT}.table=tabel.yaml",
    says=("limits.0.table: no file tabel.yaml. Did you mean 'table.yaml'?; make it: proxyless-nas measure",),
)  # fmt: skip
case(
    "table-in-no-home", SEARCH, f"{LIMIT}.table=~nosuchuser/t.yaml", says=("limits.0.table: ~nosuchuser/t.yaml", "home")
)
case("table-with-a-nul", SEARCH, f'{LIMIT}.table="a\\0"', says=("limits.0.table: got", "NUL character"))
case("table-of-300-letters", SEARCH, f"{LIMIT}.table={'t' * 300}", says=("limits.0.table: got", "300 bytes", "shorten"))
case("table-is-a-device", SEARCH, f"{LIMIT}.table=/dev/zero", says=("/dev/zero: is a device",))
case("table-is-a-folder", SEARCH, f"{LIMIT}.table=run", says=("run: is a folder",))
case("table-is-another-yaml", SEARCH, f"{LIMIT}.table=search.yaml", says=("search.yaml: ", "unknown key", "format"))
case(
    "table-of-another-size", SEARCH, "space.input_size=10",
    says=("table.yaml: input_size is 8", "10", "space.input_size",
          "-nas measure search.yaml --out table-2.yaml --verify 40"),
)  # fmt: skip
case("table-of-another-batch", SEARCH, "measure.batch=8", says=("table.yaml: batch is 1", "8", "measure.batch=8"))
case("table-of-another-activation", SEARCH, "space.activation=relu", says=("activation is relu6", "space.activation"))
case("table-of-other-threads", SEARCH, "measure.threads=2", says=("table.yaml: threads is 1", "measure.threads=2"))
case("table-of-another-dtype", SEARCH, "measure.dtype=bfloat16", says=("dtype is float32", "measure.dtype"))
case("table-of-another-layout", SEARCH, "measure.channels_last=false", says=("memory_format is channels_last",))
case(
    "table-lacks-an-op", SEARCH, f"{STAGE}.candidates=[mbconv_k3_e1, mbconv_k5_e3]",
    says=("table.yaml: no entry 'mbconv_k5_e3 8x8x8->16 s1'", "op mbconv_k5_e3", "8x8 input", "8 channels",
          "proxyless-nas measure search.yaml --out table-2.yaml"),
)  # fmt: skip


def table_case(name: str, says: tuple[str, ...], **changes: object) -> None:
    def prepare(folder: Path, files: Files) -> None:
        save(folder, "table.yaml", files["table.yaml"] | changes)

    CASES[name] = Case(SEARCH[0], SEARCH[1:], ("table.yaml: ", *says), prepare)


table_case(
    "table-with-negative-ms", ("entries.a.median_ms: got -1", "at least 0"), entries={"a": {"median_ms": -1, "n": 1}}
)
table_case(
    "table-with-nan", ("entries.a.median_ms: got .nan", "finite"), entries={"a": {"median_ms": float("nan"), "n": 1}}
)
table_case("table-with-text", ("entries.a: got 'fast'", "section"), entries={"a": "fast"})
table_case("table-entry-without-median", ("entries.a.median_ms: is missing",), entries={"a": {"n": 1}})
table_case("table-of-another-format", ("format: got 'x@2'", "proxylessnas/latency-table@1"), format="x@2")
table_case("table-in-seconds", ("unit: got 's'", "ms"), unit="s")
table_case("table-without-entries", ("entries: got {}", "at least 1"), entries={})


@spoiled(SEARCH, says=("table.yaml:", "is given twice"))
def table_with_a_key_twice(folder: Path, files: Files) -> None:
    text = (folder / "table.yaml").read_text()
    (folder / "table.yaml").write_text(text + text.splitlines()[-1] + "\n")


case(
    "measure-external",
    MEASURE,
    "measure.device=external",
    says=("measure.device: got 'external'", "proxyless-nas import"),
)
case(
    "measure-without-space",
    ("measure_latency", "retrain.yaml", "--out", "made.yaml"),
    says=("retrain.yaml:", "retrain"),
)
case("measure-into-a-folder", ("measure_latency", "search.yaml", "--out", "run"), says=("run: is a folder", "--out"))
case("import-absent", ("import_latency", "none.yaml", "--out", "made.yaml"), says=("none.yaml: no such file",))
case(
    "import-of-a-table-of-ours", ("import_latency", "table.yaml", "--out", "made.yaml"), says=("table.yaml: 'format'",)
)


@spoiled(IMPORT, says=("official.yaml", "has more than 60000 values"))
def import_of_an_alias_bomb(folder: Path, files: Files) -> None:
    lists = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 20)]
    (folder / "official.yaml").write_text("\n".join(["a0: &a0 [x]", *lists]))


@spoiled(IMPORT, says=("official.yaml", "inside each other"))
def import_of_thousands_of_brackets(folder: Path, files: Files) -> None:
    (folder / "official.yaml").write_text('{"Conv-input": ' + "[" * 3000)


@spoiled(IMPORT, says=("official.yaml: key 'Conv_9-input'", "not official"))
def import_of_a_foreign_key(folder: Path, files: Files) -> None:
    save(folder, "official.yaml", {"Conv_9-input": {"count": 1, "mean": 1.0}})


@spoiled(("import_latency", "official.yaml", "--out", "run"), says=("--out run: is a folder",))
def import_into_a_folder(folder: Path, files: Files) -> None:
    save(folder, "official.yaml", {"Conv-input:8x8x3-output:4x4x8": {"count": 1, "mean": 1.0}})


# --- architectures and checkpoints -----------------------------------------------------------------------------------

case(
    "architecture-absent", ("run_retrain", "retrain.yaml", "--architecture", "none.json", "--out", "new"),
    says=("none.json: no such file", "search writes architecture.json"),
)  # fmt: skip
case(
    "architecture-is-a-folder", ("run_retrain", "retrain.yaml", "--architecture", ".", "--out", "new"),
    says=(".: is a folder", "architecture.json"),
)  # fmt: skip


case(
    "architecture-mistyped", ("run_retrain", "retrain.yaml", "--architecture", "run/architectur.json", "--out", "new"),
    says=("no such file", "Did you mean 'run/architecture.json'?"),
)  # fmt: skip
case(
    "architecture-is-a-device", ("run_retrain", "retrain.yaml", "--architecture", "/dev/zero", "--out", "new"),
    says=("/dev/zero: is a device",),
)  # fmt: skip


@spoiled(RETRAIN, says=("run/architecture.json: has too many brackets inside each other",))
def architecture_of_thousands_of_brackets(folder: Path, files: Files) -> None:
    (folder / "run" / "architecture.json").write_text("[" * 3000 + "]" * 3000)


@spoiled(RETRAIN, says=("run/architecture.json: not JSON: NaN is not a finite number",))
def architecture_with_nan(folder: Path, files: Files) -> None:
    path = folder / "run" / "architecture.json"
    path.write_text(path.read_text().replace('"paths": [', '"predicted": NaN, "paths": [', 1))


@spoiled(RETRAIN, says=("run/architecture.json: not JSON: key 'paths' is given twice",))
def architecture_with_a_key_twice(folder: Path, files: Files) -> None:
    path = folder / "run" / "architecture.json"
    path.write_text(path.read_text().replace('"paths": [', '"paths": [], "paths": [', 1))


@spoiled(RETRAIN, says=("run/architecture.json: not JSON",))
def architecture_not_json(folder: Path, files: Files) -> None:
    (folder / "run" / "architecture.json").write_text("{paths: ")


def architecture_case(name: str, says: tuple[str, ...], change: Callable[[Files], Files]) -> None:
    def prepare(folder: Path, files: Files) -> None:
        path = folder / "run" / "architecture.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    CASES[name] = Case(RETRAIN[0], RETRAIN[1:], ("run/architecture.json: ", *says), prepare)


architecture_case("architecture-of-another-format", ("format: got 'a@2'",), lambda a: a | {"format": "a@2"})
architecture_case("architecture-with-unknown-key", ("unknown key 'path'",), lambda a: a | {"path": []})
architecture_case(
    "architecture-without-space", ("'space' is missing",), lambda a: {key: a[key] for key in a if key != "space"}
)
architecture_case(
    "architecture-with-unknown-op", ("paths: edge stage0.0 has no candidate 'mbconv_k9_e1'", "expected mbconv_k3_e1"),
    lambda a: a | {"paths": ["mbconv_k9_e1", *a["paths"][1:]]},
)  # fmt: skip
architecture_case(
    "architecture-too-short", ("paths: got 2 names, expected 3",), lambda a: a | {"paths": a["paths"][1:]}
)
architecture_case("architecture-paths-not-names", ("paths: expected a list",), lambda a: a | {"paths": [0, 1, 2]})
architecture_case(
    "architecture-with-edited-complexity", ("complexity: the file states", "derive it again"),
    lambda a: a | {"complexity": {"params": 1, "macs": 1}},
)  # fmt: skip
architecture_case(
    "architecture-with-a-broken-space", ("space.stages.0.depth",),
    lambda a: a | {"space": a["space"] | {"stages": [{"width": 8, "depth": 0, "candidates": ["proj"]}]}},
)  # fmt: skip

case("checkpoint-absent", EVALUATE, "none.pt", says=("none.pt: no such file, expected a step-",))
case("checkpoint-is-yaml", EVALUATE, "search.yaml", says=("search.yaml: is not a checkpoint",))


@spoiled(EVALUATE, "bad.pt", says=("bad.pt: has no 'retrain'", "no checkpoint of a search or a retraining"))
def checkpoint_of_something_else(folder: Path, files: Files) -> None:
    torch.save({"weights": torch.zeros(3)}, folder / "bad.pt")


@spoiled(EVALUATE, "bad.pt", says=("bad.pt: has no 'net'", "no checkpoint of a search or a retraining"))
def checkpoint_with_a_section_missing(folder: Path, files: Files) -> None:
    torch.save({"search": {"alpha": torch.zeros(3)}}, folder / "bad.pt")


@spoiled(EVALUATE, "bad.pt", says=("bad.pt: search: holds something else than a state",))
def checkpoint_with_a_list_for_a_section(folder: Path, files: Files) -> None:
    torch.save({"search": [1, 2]}, folder / "bad.pt")


@spoiled(EVALUATE, "bad.pt", says=("bad.pt: is not a checkpoint",))
def checkpoint_with_code_in_it(folder: Path, files: Files) -> None:
    torch.save({"search": print}, folder / "bad.pt")


def newest(folder: Path) -> Path:
    return max((folder / "run" / "checkpoints").glob("step-*.pt"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@spoiled(RETRAIN, says=("run/checkpoints/step-", "is damaged", "does not match the hash"))
def checkpoint_damaged(folder: Path, files: Files) -> None:
    flip(newest(folder))
    retrain = files["retrain.yaml"]
    retrain["retrain"]["inherit"] = str(newest(folder).relative_to(folder))
    save(folder, "retrain.yaml", retrain)


@spoiled(
    RETRAIN,
    "retrain.inherit=other.pt",
    says=("other.pt: is of a supernet", "space.feature_mix: 16 -> 24"),
)
def checkpoint_of_another_architecture(folder: Path, files: Files) -> None:
    shutil.copy(newest(folder), folder / "other.pt")
    path = folder / "run" / "architecture.json"
    architecture = json.loads(path.read_text())
    architecture["space"]["feature_mix"] = 24
    del architecture["complexity"]
    path.write_text(json.dumps(architecture))


@spoiled(("derive", "run"), says=("run/checkpoints: all 2 checkpoints are damaged",))
def checkpoints_all_damaged(folder: Path, files: Files) -> None:
    for path in (folder / "run" / "checkpoints").glob("step-*.pt"):
        flip(path)


# --- run folders -----------------------------------------------------------------------------------------------------

case("out-holds-a-run", ("run_search", "search.yaml", "--out", "run"), says=("--out run: holds a run", "--resume"))
case("out-is-a-file", ("run_search", "search.yaml", "--out", "table.yaml"), says=("--out table.yaml: is a file",))
case("out-below-a-file", ("run_search", "search.yaml", "--out", "table.yaml/a"), says=("--out table.yaml/a",))
case(
    "retrain-into-a-search", ("run_retrain", "retrain.yaml", "--architecture", "run/architecture.json", "--out", "run"),
    says=("--out run: holds a run",),
)  # fmt: skip
case(
    "retrain-resumes-a-search",
    ("run_retrain", "retrain.yaml", "--architecture", "run/architecture.json", "--out", "run", "--resume"),
    says=("--resume", "run/config.yaml", "retrain"),
)  # fmt: skip
case("resume-with-another-lr", RESUME, "search.lr=0.5", says=("run/config.yaml", "search.lr: (absent) -> 0.5"))
case("resume-with-another-bound", RESUME, f"{LIMIT}.at=60%", says=("run/config.yaml", "limits.0.at: ", "->"))


@spoiled(RESUME, says=("limits.0", "->", "run/config.yaml"))
def resume_with_another_table(folder: Path, files: Files) -> None:
    table = files["table.yaml"]
    first = next(iter(table["entries"].values()))
    first["median_ms"] += 1
    save(folder, "table.yaml", table)


@spoiled(DERIVE, says=("run/config.yaml: limits.0.table: table.yaml is not the table of this run", "put the old table"))
def derive_with_another_table(folder: Path, files: Files) -> None:
    shutil.rmtree(folder / "run" / "tables")  # the run's own copy
    table = files["table.yaml"]
    next(iter(table["entries"].values()))["median_ms"] += 1
    save(folder, "table.yaml", table)


@spoiled(RESUME, says=("run", "checkpoints", "config.yaml"))
def resume_without_config(folder: Path, files: Files) -> None:
    (folder / "run" / "config.yaml").unlink()


@spoiled(DERIVE, says=("run/checkpoints: all 1 checkpoints are damaged",))
def derive_from_a_checkpoint_of_something_else(folder: Path, files: Files) -> None:
    for path in (folder / "run" / "checkpoints").iterdir():
        path.unlink()
    Checkpoints(folder / "run" / "checkpoints").save(4, {"search": [1, 2]})


@spoiled(DERIVE, says=("run: no checkpoint yet",))
def derive_without_checkpoint(folder: Path, files: Files) -> None:
    shutil.rmtree(folder / "run" / "checkpoints")


case("derive-no-run", ("derive", "elsewhere"), says=("elsewhere: no config.yaml", "folder of a search"))
case("derive-a-file", ("derive", "table.yaml"), says=("table.yaml: no config.yaml",))
case("derive-at-nonsense", DERIVE, "--at", "fast", says=("--at: got 'fast'", "50%"))
case("derive-at-above-100-percent", DERIVE, "--at", "150%", says=("--at: got '150%'", "100%"))
case("derive-at-half-a-range", DERIVE, "--at", "10%..90%", says=("--at: got '10%..90%'", "10%..90%x9"))
case("derive-at-a-mixed-range", DERIVE, "--at", "1..90%x9", says=("--at: got '1..90%x9'", "both in %"))
case("derive-at-out-of-range", DERIVE, "--at", "1e6", says=("--at: got 1e+06 ms", "reach"))

SWEEP = ("run_sweep", "search.yaml", "--out", "new")
case("sweep-into-a-file", (*SWEEP[:3], "table.yaml"), says=("--out table.yaml: is a file", "expected a folder"))
case("sweep-of-an-absent-config", SWEEP, "none.yaml", says=("none.yaml: no such file", "configs/search/"))
case("sweep-of-a-config-twice", SWEEP, "search.yaml", says=("would share the folder new/search", "rename one"))
case("sweep-with-a-seed-twice", SWEEP, "--seeds", "0", "0", says=("--seeds: 0 is given twice", "remove one"))


@spoiled(SWEEP, "--resume", says=("new/sweep.json: is no record of a sweep", "delete it"))
def sweep_with_a_damaged_record(folder: Path, files: Files) -> None:
    (folder / "new").mkdir()
    (folder / "new" / "sweep.json").write_text("{}")


@spoiled(SWEEP, "--resume", says=("new/sweep.json: is no record of a sweep", "delete it"))
def sweep_with_a_record_of_thousands_of_brackets(folder: Path, files: Files) -> None:
    (folder / "new").mkdir()
    (folder / "new" / "sweep.json").write_text("[" * 3000)


@spoiled(SWEEP, "--resume", says=("new/sweep.json: is no record of a sweep", "delete it"))
def sweep_with_a_time_that_is_no_number(folder: Path, files: Files) -> None:
    (folder / "new").mkdir()
    (folder / "new" / "sweep.json").write_text('{"searches": [{"name": "search", "seconds": NaN}]}')


@spoiled(SWEEP, "--resume", says=("new/sweep.json: is no record of a sweep", "delete it"))
def sweep_with_a_record_that_is_a_device(folder: Path, files: Files) -> None:
    (folder / "new").mkdir()
    (folder / "new" / "sweep.json").symlink_to("/dev/zero")


@spoiled(SWEEP, "--resume", says=("new/search/result.json: is no result of a search", "delete it"))
def sweep_with_a_result_of_thousands_of_brackets(folder: Path, files: Files) -> None:
    shutil.copytree(folder / "run", folder / "new" / "search")
    (folder / "new" / "search" / "result.json").write_text("[" * 3000)


@spoiled(SWEEP, "--resume", says=("new/search/result.json: is a device",))
def sweep_with_a_result_that_is_a_device(folder: Path, files: Files) -> None:
    shutil.copytree(folder / "run", folder / "new" / "search")
    (folder / "new" / "search" / "result.json").unlink()
    (folder / "new" / "search" / "result.json").symlink_to("/dev/zero")


@spoiled(SWEEP, says=("--out new: search holds a run already", "--resume"))
def sweep_where_one_was(folder: Path, files: Files) -> None:
    shutil.copytree(folder / "run", folder / "new" / "search")


@spoiled(SWEEP, "--resume", says=("new/search/result.json: is no result of a search", "delete it"))
def sweep_with_a_damaged_result(folder: Path, files: Files) -> None:
    shutil.copytree(folder / "run", folder / "new" / "search")
    (folder / "new" / "search" / "result.json").write_text("[")


@spoiled(("derive", "run"), says=("data.root: no folder 'gone'", "--no-score"))
def derive_without_its_data(folder: Path, files: Files) -> None:
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    config["data"] = {"name": "folder", "root": "gone", "validation": 0.5, "workers": 0}
    save(folder, "run/config.yaml", config)


# --- data and devices ------------------------------------------------------------------------------------------------


def data_case(name: str, says: tuple[str, ...], *overrides: str, make: tuple[str, ...] = ()) -> None:
    def prepare(folder: Path, files: Files) -> None:
        search = files["search.yaml"]
        search["space"]["input_channels"] = 3
        search["limits"] = [{"metric": "macs", "at": "50%"}]
        search["data"] = {"name": "folder", "root": "images", "validation": 0.5, "workers": 0}
        save(folder, "search.yaml", search)
        for place in make:
            (folder / "images" / place).mkdir(parents=True)

    CASES[name] = Case(SEARCH[0], (*SEARCH[1:], *overrides), (f"error: search.yaml: {says[0]}", *says[1:]), prepare)


data_case("data-root-absent", ("data.root: no folder 'images'",))
data_case("data-without-train", ("data.root: no train/ in 'images'",), make=("val/a",))
data_case("data-without-test", ("data.root: neither test/ nor val/",), make=("train/a", "train/b"))
data_case(
    "data-with-other-classes",
    ("space.classes: got 2", "3 classes"),
    make=tuple(f"{p}/{c}" for p in ("train", "val") for c in "abc"),
)
data_case(
    "data-without-images",
    ("data.root: class folder", "has no image"),
    make=tuple(f"{p}/{c}" for p in ("train", "val") for c in "ab"),
)
data_case(
    "fashion-mnist-absent",
    ("data.root: no complete 'fashion_mnist' in 'images'", "data.download: true"),
    "data.name=fashion_mnist",
    "space.classes=10",
)
case("data-unknown", SEARCH, "data.name=mnist", says=("data.name: got 'mnist'", "fashion_mnist"))
case(
    "data-classes", SEARCH, "data.fake_classes=3",
    says=("error: search.yaml: space.classes: got 2", "3 classes", "data.fake_classes"),
)  # fmt: skip
case(
    "retrain-data-classes", RETRAIN, "data.fake_classes=3",
    says=("error: run/architecture.json: space.classes: got 2", "3 classes", "or choose other data"),
)  # fmt: skip
case(
    "data-module-absent", SEARCH, "data={module: mine.py, name: pairs}",
    says=("error: search.yaml: data.module: no such file 'mine.py'", "path to a .py file"),
)  # fmt: skip
case(
    "retrain-data-module-absent", RETRAIN, "data={module: mine.py, name: pairs}",
    says=("error: retrain.yaml: data.module: no such file 'mine.py'", "path to a .py file"),
)  # fmt: skip


@spoiled(
    SEARCH, "data={module: mine.py, name: pears}",
    says=("error: search.yaml: data.module: 'mine.py' has no function 'pears'", "Did you mean 'pairs'?"),
)  # fmt: skip
def data_module_without_the_function(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("from json import loads\ndef pairs(root):\n    return 1\n")


@spoiled(
    RETRAIN, "data={module: mine.py, name: pairs}",
    says=("error: retrain.yaml: data.module: 'mine.py': pairs() failed: mine.py, line 2: KeyError: 'a'",),
)  # fmt: skip
def data_module_whose_function_raises(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("def pairs(root):\n    return {}['a']\n")


@spoiled(
    SEARCH, "data={module: mine.py, name: pairs}",
    says=("error: search.yaml: data.module: cannot import 'mine.py': mine.py, line 1: NameError",),
)  # fmt: skip
def data_module_with_an_unknown_name(folder: Path, files: Files) -> None:
    (folder / "mine.py").write_text("pairs = other\n")


case(
    "data-channels",
    SEARCH,
    "data.name=digits",
    "data.fake_images=512",
    "data.fake_classes=10",
    "space.classes=10",
    "space.input_channels=4",
    "limits=[{metric: macs, at: 50%}]",
    says=("error: search.yaml: space.input_channels: got 4",),
)
case(
    "data-root-missing",
    SEARCH,
    "data.name=cifar10",
    "data.fake_images=512",
    "data.fake_classes=10",
    says=("data.root: is missing",),
)
case("download-of-noise", SEARCH, "data.download=true", says=("data.download: got true", "remove it"))
case(
    "batch-larger-than-the-set",
    SEARCH,
    "search.batch_size=64",
    says=("search.yaml: search.batch_size: got 64", "16 images"),
)
case(
    "validation-larger-than-the-set", SEARCH, "data.validation=64",
    says=("error: search.yaml: data.validation: 64", "32"),
)  # fmt: skip
case(
    "retrain-batch-larger-than-the-set", RETRAIN, "retrain.batch_size=64",
    says=("error: retrain.yaml: retrain.batch_size: got 64", "32 images"),
)  # fmt: skip
case(
    "cuda-without-gpu", SEARCH, "run.device=cuda",
    says=("error: search.yaml: run.device: got 'cuda'", "run.device=cpu"),
)  # fmt: skip
case("retrain-cuda-without-gpu", RETRAIN, "run.device=cuda", says=("error: retrain.yaml: run.device: got 'cuda'",))
case(
    "evaluate-cuda-without-gpu", EVALUATE, "none.pt", "run.device=cuda",
    says=("error: retrain.yaml: run.device: got 'cuda'",),
)  # fmt: skip
case(
    "evaluate-data-absent", EVALUATE, "none.pt", "data={name: folder, root: images}",
    says=("error: retrain.yaml: data.root: no folder 'images'",),
)  # fmt: skip
case(
    "measure-cuda-without-gpu",
    MEASURE,
    "measure.device=cuda",
    says=("measure.device: got 'cuda'", "measure.device=cpu"),
)


def save(folder: Path, name: str, values: object) -> None:
    (folder / name).write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, door, tiny_search, space_of, formula_table):
    """A folder with search.yaml, its table, retrain.yaml and a finished search in run/."""
    folder = tmp_path_factory.mktemp("finished")
    save(folder, "search.yaml", tiny_search)
    formula_table(space_of(tiny_search["space"])).save(folder / "table.yaml")
    retrain = {"data": {**tiny_search["data"]}, "retrain": {"epochs": 1, "batch_size": 4}, "run": {"threads": 1}}
    save(folder, "retrain.yaml", retrain)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ended = door("run_search", "search.yaml", "--out", "run")
    assert ended.status == 0, ended.err
    return folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A copy of `finished`, the working folder of one case."""
    own = tmp_path / "work"
    shutil.copytree(finished, own)
    monkeypatch.chdir(own)
    return own


def prepared(name: str, folder: Path) -> Case:
    case = CASES[name]
    if case.prepare:
        case.prepare(folder, {file: yaml.safe_load((folder / file).read_text()) for file in FILES})
    return case


FILES = ("search.yaml", "table.yaml", "retrain.yaml")


def check(case: Case, status: int, err: str) -> None:
    assert status == 2, err
    lines = [line for line in err.splitlines() if not line.startswith(("WARNING: ", "deriving "))]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in case.words:
        assert word in lines[0]


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_and_status_2(name, folder, door):
    if "without-gpu" in name and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    case = prepared(name, folder)
    ended = door(case.script, *case.arguments)
    check(case, ended.status, ended.err)


@pytest.mark.parametrize("name", ["key-unknown", "table-absent", "architecture-not-json"])
def test_a_mistake_is_one_line_and_status_2_in_a_process_of_its_own_too(name, folder, shell, checkout):
    case = prepared(name, folder)
    ended = python(checkout / "scripts" / f"{case.script}.py", *case.arguments, env=shell)
    check(case, ended.returncode, ended.stderr)
