"""Defines the functions of `proxyless_nas`: they do the work of the subcommands, for Python.

A configuration is a path, the name of one that comes with the package, a dictionary or a model; paths may be texts. An
error that a user can mend is a UserError. Nothing is printed but the log; `report` shows what is going on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, cast, get_args

from engine.config import ConfigFile
from engine.errors import ConfigError
from engine.evaluation import Evaluation
from engine.files import as_list, as_path, as_texts
from engine.progress import Report, silent
from engine.shipped import located
from engine.wording import in_a_row, shown
from export.job import Exported, ExportedInt8, export_int8, export_network
from export.timing import time_files as measured_files
from export.timing_kit import export_timing_kit, import_timings
from export.timings import TimedFile
from latency.config import FEWEST_CALIBRATION_NETWORKS, LARGEST_BATCH, MOST_REPEATS, LatencyConfig
from latency.device import Kind
from latency.fit import Fit, fit_to_file
from latency.kit import ExportedKit
from latency.measure import TIMING_ROUNDS, measure_table, measure_to_file, verify_table
from latency.table import LatencyTable, prepare_table_file
from latency.timings import time_networks
from latency.verification import check_count, check_seed
from proxyless_nas.calls import as_seeds, refuse_outside
from proxyless_nas.predictions import predict as predict
from proxyless_nas.quantised import int8_settings
from proxyless_nas.sources import sized, trained_network
from retrain.evaluation import evaluate_checkpoint
from retrain.loop import RetrainResult
from retrain.run import run_retrain
from search.check import Check, check_search
from search.config import SearchConfig
from search.loop import SearchResult, run_search
from search.many.family import Family, derive_family
from search.many.sweep import Sweep, run_sweep
from supernet.architecture import Architecture
from supernet.design import Design
from supernet.space import LARGEST_INPUT, Space

AnyPath = Path | str
ConfigLike = Path | str | Mapping[str, Any] | ConfigFile
"""A configuration: a YAML file, the name of one that comes with the package, what a file would hold, or a model."""


def measure(
    config: ConfigLike,
    out: AnyPath | None = None,
    *,
    overrides: Sequence[str] = (),
    verify: int = 0,
    recalibrate: bool = False,
    seed: int | None = None,
    report: Report = silent,
) -> LatencyTable:
    """Measures the latency table of a configuration's space on this machine, and returns it.

    out: the file to write; None writes none. verify: the number of fresh networks on which the table's error is
    measured. recalibrate: keeps the measured entries of `out` and refits their corrections. seed: the seed of the
    networks and their order. A file that exists is verified if `verify` is given, else measured anew if it is of the
    same space, device and settings; any other one is refused. Raises ConfigError if the configuration is wrong or its
    device is not here, and TableError if `out` cannot be used.
    """
    source, overrides = _latency_config(config, overrides)
    if out is not None:
        return measure_to_file(
            source,
            as_path(out, "out"),
            overrides=overrides,
            verify=verify,
            recalibrate=recalibrate,
            seed=seed,
            report=report,
        )
    check_count(verify)
    check_seed(seed)
    settings = LatencyConfig.read(source, overrides)
    return measure_table(Space(settings.space), settings.measure, seed=seed or 0, verify=verify, report=report)


def verify(
    table: LatencyTable | AnyPath,
    config: ConfigLike,
    networks: int = 40,
    *,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    report: Report = silent,
) -> LatencyTable:
    """Measures how well a table predicts fresh whole networks on this machine. Returns the table with its error, in
    `verification`.

    table: an object; or a file, which gets the error too. networks: their number. seed: the seed by which they are
    drawn; None draws others than any time before. Raises TableError if the table is another device's or does not fit
    the configuration.
    """
    if not isinstance(table, LatencyTable):
        source, overrides = _latency_config(config, overrides)
        file = as_path(table, "table")
        LatencyTable.load(file)  # a missing file is an error, and is not measured
        return measure_to_file(source, file, overrides=overrides, verify=networks, seed=seed, report=report)
    import time

    check_count(networks)
    check_seed(seed)
    source, overrides = _latency_config(config, overrides)
    settings = LatencyConfig.read(source, overrides)
    space = Space(settings.space)
    table.check(space, settings.measure, "the table", "measure another one")
    seed = int(time.time()) if seed is None else seed
    return verify_table(table, space, settings.measure, networks, seed=seed, report=report)


def fit(
    config: ConfigLike,
    timings: AnyPath | Callable[[Architecture], float],
    out: AnyPath,
    *,
    networks: int = 60,
    overrides: Sequence[str] = (),
    device_name: str = "unknown device",
    device_kind: Kind = "other",
    runtime: str = "unknown",
    prior: LatencyTable | AnyPath | None = None,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> Fit:
    """Fits a latency table to the latencies of whole networks, writes it to `out`, and returns it with its error.

    timings: a CSV file with the columns architecture (an architecture.json, or the ops of all layers separated by
    spaces) and ms, or a JSON list of such pairs; or a function from a `pn.Architecture` to its milliseconds, which is
    called for `networks` networks of the space. Their times are kept in a CSV file beside `out`, so that the same call
    goes on after an interruption. device_name, device_kind, runtime: what timed the networks, the runtime in words such
    as 'tflite 2.16'. prior: the table of another device, or the word macs. Raises ConfigError, or the errors of
    latency.fit.fit_to_file.
    """
    source, overrides = _latency_config(config, overrides)
    settings = LatencyConfig.read(source, overrides)
    target = as_path(out, "out")
    if device_kind not in get_args(Kind):
        raise ConfigError("device_kind", f"got {shown(device_kind)}", in_a_row(get_args(Kind)))
    if callable(timings):
        if not FEWEST_CALIBRATION_NETWORKS <= networks <= MOST_REPEATS:
            expected = f"a whole number from {FEWEST_CALIBRATION_NETWORKS} to {MOST_REPEATS}"
            raise ConfigError("networks", f"got {shown(networks)}", expected)
        prepare_table_file(target)
        file = target.with_suffix(".csv")
        time_networks(timings, Space(settings.space), file, networks=networks, report=report)
    else:
        file = as_path(timings, "timings")
    if not (prior is None or isinstance(prior, LatencyTable) or (isinstance(prior, str) and prior == "macs")):
        prior = as_path(prior, "prior")
    return fit_to_file(
        settings, file, target, device_name=device_name, device_kind=device_kind, runtime=runtime,
        prior=cast(Any, prior), allow_modules=as_texts(allow_modules, "allow_modules"),
    )  # fmt: skip


def check(
    config: ConfigLike, out: AnyPath | None = None, *, overrides: Sequence[str] = (), report: Report = silent
) -> list[Check]:
    """Checks a search before it runs, in seconds. Returns a Check for each condition; nothing is written.

    out: the folder for results, if there shall be room for checkpoints.
    """
    return check_search(_given(config), overrides, None if out is None else as_path(out, "out"), report)


def search(
    config: ConfigLike,
    out: AnyPath,
    *,
    tables: Mapping[Path | str, LatencyTable] | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> SearchResult:
    """Searches an architecture that meets the limits of a configuration, and returns it with its figures.

    out: the folder for results: config.yaml, curves, checkpoints, architecture.json, result.json. tables: latency
    tables as objects, by the path at which a limit names them; in a dictionary, a limit's `table` may be such an object
    itself. resume: continues the search in `out`. Raises a UserError for anything wrong that the user can mend.
    """
    return run_search(_given(config), out, tables=tables, resume=resume, overrides=overrides)


def derive(
    run: AnyPath,
    at: str | float | Sequence[str | float] = (),
    *,
    table: LatencyTable | AnyPath | None = None,
    method: Literal["constrained", "argmax"] | None = None,
    scored: bool = True,
    device: Literal["cpu", "cuda"] | None = None,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> Family:
    """Derives architectures from the newest checkpoint of a search, one for each bound `at` of its first limit.

    at: numbers in the metric's unit, `30%` of the reachable range, or `10%..90%x9` for nine evenly spaced ones; without
    it, the run's own bound. table: a device's latency table in place of the search's latency limits. method: None takes
    the search's; constrained finds the likeliest network within the bound, argmax the likeliest op of each layer.
    scored: evaluates each network with the supernet's weights on the validation images; without, it takes seconds.
    Raises ConfigError or CheckpointError.
    """
    bounds = [at] if isinstance(at, str | Real) else as_list(at, "at")
    for bound in bounds:
        if not isinstance(bound, str | Real) or isinstance(bound, bool):
            raise ConfigError("at", f"got {shown(bound)}", "numbers, or texts such as '50%' and '10%..90%x9'")
    for name, value, known in (("method", method, ("constrained", "argmax")), ("device", device, ("cpu", "cuda"))):
        if value not in (None, *known):
            raise ConfigError(name, f"got {shown(value)}", f"{in_a_row(known)}, or None")
    if table is not None and not isinstance(table, LatencyTable):
        table = as_path(table, "table")
    return derive_family(
        as_path(run, "run"), [str(bound) for bound in bounds], method, table=table, scored=scored, device=device,
        report=report, allow_modules=as_texts(allow_modules, "allow_modules"),
    )  # fmt: skip


def sweep(
    configs: Sequence[AnyPath],
    out: AnyPath,
    *,
    seeds: Sequence[int] = (),
    jobs: int = 1,
    resume: bool = False,
    overrides: Sequence[str] = (),
) -> Sweep:
    """Searches with every configuration and seed, each in a process of its own; writes a table and a picture of all.

    configs: paths, or names of configurations that come with the package. out: a folder with a folder and a log for
    each search. jobs: searches at a time on the CPU; each GPU has one. Raises ConfigError before anything is started.
    """
    files = [located(as_path(config, "configs")) for config in as_list(configs, "configs")]
    if not files:
        raise ConfigError("configs", "got none", "at least one path or name of a configuration")
    numbers = as_seeds(seeds)
    refuse_outside("jobs", jobs, 1)
    return run_sweep(
        files, as_path(out, "out"), seeds=numbers, jobs=jobs, resume=resume,
        overrides=as_texts(overrides, "overrides"),
    )  # fmt: skip


def retrain(
    config: ConfigLike,
    architecture: Design | AnyPath | None,
    out: AnyPath,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    allow_modules: Collection[str] = (),
) -> RetrainResult:
    """Trains an architecture on all training images, and returns the network and its test accuracy.

    architecture: an object, an architecture.json, a net.config or the name of a published network; None takes that of
    the network that the configuration's `retrain.start` names. out: the folder for results. resume: continues the
    training in `out`. allow_modules: the modules that the architecture's file, or the checkpoint to start from, may
    import. Raises a UserError for anything wrong that the user can mend.
    """
    from proxyless_nas.starting import architecture_or_file, published_network

    return run_retrain(
        _given(config), architecture_or_file(architecture, allow_modules), out, resume=resume, overrides=overrides,
        allow_modules=allow_modules, published=published_network,
    )  # fmt: skip


def evaluate(
    config: ConfigLike,
    checkpoint: AnyPath,
    architecture: Design | AnyPath | None = None,
    *,
    overrides: Sequence[str] = (),
    allow_modules: Collection[str] = (),
) -> Evaluation:
    """Evaluates a network with a checkpoint, of its retraining or of a search, on the test set.

    config: the configuration of its retraining; only the sections data and run are used. checkpoint: a .pt file, or the
    folder of a run, whose newest good one is taken. architecture: None takes the one in the checkpoint of a retraining.
    Returns top-1, top-5 and the loss. Raises CheckpointError or ConfigError.
    """
    _, evaluation = evaluate_checkpoint(_given(config), architecture, checkpoint, allow_modules, overrides=overrides)
    return evaluation


def export(
    source: AnyPath,
    out: AnyPath,
    to: Sequence[str] = ("onnx",),
    *,
    dtype: Literal["float32", "int8"] = "float32",
    calibration: AnyPath | None = None,
    calibration_images: int = 512,
    max_drop: float = 1.0,
    keep_layers: int | Sequence[str] = 0,
    weight_bits: Literal[7, 8] = 8,
    checkpoint: AnyPath | None = None,
    size: int | None = None,
    batch: int | Literal["any"] | None = None,
    layout: Literal["nchw", "nhwc"] | None = None,
    normalise: bool = False,
    images: AnyPath | None = None,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> Sequence[Exported | ExportedInt8]:
    """Exports a trained network to the files of runtimes, checks each, and returns what was written.

    source: the folder of a retraining or a .pt file of its checkpoints, the name of a published network, or, with
    `checkpoint`, an architecture.json or a net.config. out: the folder for the files. to: the formats: onnx, openvino,
    litert, executorch, torch_export, torchscript, saved_model. size: height and width of the input in pixels. batch:
    the number of images that a file takes at once; None is any number where the format can, else 1. layout: of the
    images; None is the format's own. normalise: the file takes pixels from 0 to 255 and normalises them itself. images:
    a folder of labelled images, on which the accuracies are compared too.

    dtype: int8 quantises the weights and activations after training. calibration: a folder of training images from
    which the ranges of the activations follow; None takes a retraining's own. calibration_images: how many.
    max_drop: the largest accepted loss of top-1 accuracy on `images`, or on a retraining's own test set, in percentage
    points. keep_layers: how many of the costliest layers stay in float32, or their names. weight_bits: on x86
    CPUs without VNNI, 7 makes ONNX Runtime fast and OpenVINO right, and costs accuracy.

    Raises ParityError if a file computes something else than PyTorch, DropError if an int8 file loses too much, and a
    UserError for anything else that the user can mend.
    """
    for name, value, known in (("layout", layout, ("nchw", "nhwc")), ("dtype", dtype, ("float32", "int8"))):
        if value not in known and not (name == "layout" and value is None):
            raise ConfigError(
                name, f"got {shown(value)}", f"{in_a_row(known)}{', or None' if name == 'layout' else ''}"
            )
    refuse_outside("size", size, 1, LARGEST_INPUT, also=[None])
    refuse_outside("batch", batch, 1, LARGEST_BATCH, also=[None, "any"])
    refuse_outside("calibration_images", calibration_images, 1)
    place = None if checkpoint is None else as_path(checkpoint, "checkpoint")
    path = as_path(source, "source")
    found = trained_network(path, place, as_texts(allow_modules, "allow_modules"), report=report)
    preprocessing = sized(found.network, found.preprocessing, size)
    folder = None if images is None else as_path(images, "images")
    formats, target = as_texts(to, "to"), as_path(out, "out")
    if dtype == "float32":
        if calibration is not None:
            raise ConfigError("calibration", "is given, but the files are float32", remedy="add dtype int8")
        return export_network(
            found.network, preprocessing, found.classes, formats, target, batch=batch, layout=layout,
            normalise=normalise, images=folder, folder_names=found.folder_names, report=report,
        )  # fmt: skip
    settings = int8_settings(
        path,
        found,
        preprocessing,
        calibration=None if calibration is None else as_path(calibration, "calibration"),
        count=calibration_images,
        images=folder,
        max_drop=max_drop,
        keep=keep_layers if isinstance(keep_layers, int) else as_texts(keep_layers, "keep_layers"),
        weight_bits=weight_bits,
        report=report,
    )
    return export_int8(
        found.network, preprocessing, found.classes, formats, target, settings, batch=batch, layout=layout,
        normalise=normalise, report=report,
    )  # fmt: skip


def time_files(
    files: Sequence[AnyPath],
    table: AnyPath | None = None,
    *,
    threads: int | None = None,
    batch: int | None = None,
    rounds: int = TIMING_ROUNDS,
    kit: AnyPath | None = None,
    results: AnyPath | None = None,
    allow_modules: Collection[str] = (),
    report: Report = silent,
) -> list[TimedFile] | ExportedKit:
    """Times exported files in their runtimes, puts a latency table's prediction beside each, and writes timings.json.

    files: files that `export` has written. table: a latency table's file. threads: CPU threads of the runtimes; None is
    the table's, or 1. batch: images at once for files that take any number; None is the table's, or 1. rounds: each
    file is timed in each. kit: a folder; without `results` a kit is written there, which times the files on another
    device, and is returned; with `results`, its results.json, the figures of that device are returned. Raises
    ConfigError or KitFileError if an argument or a file is wrong, and UserError if a runtime is missing or cannot run
    its file.
    """
    refuse_outside("threads", threads, 1, MOST_REPEATS, also=[None])
    refuse_outside("batch", batch, 1, MOST_REPEATS, also=[None])
    refuse_outside("rounds", rounds, 2, MOST_REPEATS)
    paths = list(dict.fromkeys(as_path(file, "files") for file in as_list(files, "files")))  # each once
    if not paths:
        raise ConfigError("files", "got none", "at least one exported file")
    promise = None if table is None else as_path(table, "table")
    modules = as_texts(allow_modules, "allow_modules")
    if kit is None:
        if results is not None:
            raise ConfigError("results", "got a file without its kit", "the kit's folder, too")
        return measured_files(
            paths, promise, threads=threads, batch=batch, rounds=rounds, allow_modules=modules, report=report
        )
    folder = as_path(kit, "kit")
    if results is not None:
        return import_timings(paths, folder, as_path(results, "results"), promise, allow_modules=modules)
    return export_timing_kit(paths, folder, promise, threads=threads, batch=batch, rounds=rounds, allow_modules=modules)


def _given(config: ConfigLike) -> Any:
    """Returns a configuration as the packages take it: the path of the file in place of a shipped one's name."""
    return located(as_path(config, "config")) if isinstance(config, Path | str) else config


def _latency_config(config: ConfigLike, overrides: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """Returns the path of a latency configuration and its overrides, or the model of another one, and none."""
    overrides = as_texts(overrides, "overrides")
    if isinstance(config, Path | str):
        return located(as_path(config, "config")), overrides
    if isinstance(config, SearchConfig):
        config = LatencyConfig(space=config.space, measure=config.measure)
    if not isinstance(config, LatencyConfig | Mapping):
        expected = "a path, a dictionary, a LatencyConfig or a SearchConfig"
        raise ConfigError("config", f"got {shown(config)}", expected)
    return LatencyConfig.read(config, overrides), ()
