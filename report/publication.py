"""Publishes a retrained network: a folder that torch.hub loads it from, with its model card.

hubconf.py, config.json, architecture.json, weights.pth, README.md; net.config if that format can express the network,
and weights.safetensors on request. The folder is complete or absent.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from engine.data.preprocessing import Preprocessing
from engine.errors import CheckpointError, ConfigError, UserError
from engine.evaluation import Evaluation
from engine.files import as_path, as_texts, replacing_folder, writing
from engine.runs.checkpoints import FORMAT as CHECKPOINT
from published.net_config.conversion import net_config_of
from report.card import model_card
from report.entry import check_name, entry_name, hubconf
from report.portable import NotPortableError, code_of, portable_state
from report.runs import Retrained, Runs, open_runs, whole
from retrain.preprocessing import preprocessing_in
from retrain.weights import in_words, layers_of, load_network_of, read_checkpoint
from supernet.network import Network

FORMAT = "proxylessnas/publication@1"
WEIGHTS, SAFETENSORS = "weights.pth", "weights.safetensors"


@dataclass(frozen=True)
class Publication:
    """A published network."""

    folder: Path
    name: str
    """The entry point of its hubconf.py."""
    files: tuple[str, ...]
    why_not_plain: str = ""
    """The reason why hubconf.py needs this package; empty if torch is enough."""
    why_no_net_config: str = ""
    """The reason why there is no net.config; empty if there is one."""


def publish(
    run: Path | str,
    out: Path | str,
    *,
    search: Path | str | None = None,
    name: str | None = None,
    licence: str | None = None,
    safetensors: bool = False,
    overwrite: bool = False,
    allow_modules: Collection[str] = (),
) -> Publication:
    """Writes a folder that `torch.hub.load(out, name, source="local")` loads a retrained network from.

    run: the folder of a retraining that has ended, or of a quick start. search: the folder of the search that found the
    network, for limits and latencies in the model card; None takes the one that the retraining got its architecture
    from, if it is still there. The two may be swapped. name: the entry point, an identifier; None makes one of the
    network's name. licence: of the network, such as `apache-2.0`. safetensors: writes the weights in that format too.
    overwrite: replaces an earlier publication. allow_modules: as for `Architecture.from_json`.

    The weights are those of the newest good checkpoint, which has to be the one that was tested after the last epoch.
    Raises ConfigError, CheckpointError or WriteError, before anything is written.
    """
    if name is not None:
        check_name(name)
    if licence is not None and (not licence.strip() or not licence.isprintable()):
        raise ConfigError("--licence", f"got {licence[:80]!r}", "the name of a licence, such as apache-2.0")
    out, allow_modules = as_path(out, "out"), as_texts(allow_modules, "allow_modules")
    _refuse_other_files(out, overwrite)
    folders = [as_path(run, "run"), *([] if search is None else [as_path(search, "search")])]
    runs = open_runs(folders, allow_modules)
    trained = _trained(runs, allow_modules)
    design, folder = trained.retraining.design, runs.quickstart or trained.retraining.folder
    name = name or entry_name(design.name if design.name != "unnamed" else folder.resolve().name)
    files, why_not_plain, why_no_net_config = _files_to_load(trained, name, safetensors=safetensors)
    versions = {"proxylessnas": _version(), "torch": torch.__version__, "Python": platform.python_version()}
    files["config.json"] = _config(trained, name, licence, versions, files)
    card = model_card(
        name, runs, trained.retraining, trained.test, preprocessing=trained.preprocessing, classes=trained.classes,
        why_no_plain_code=why_not_plain, why_no_net_config=why_no_net_config, licence=licence, versions=versions,
        hashes={file: _sha256(text) for file, text in files.items()},
    )  # fmt: skip
    files["README.md"] = card.encode()
    with replacing_folder(out) as new:
        for file, text in files.items():
            with writing(out / file):
                (new / file).write_bytes(text)
    return Publication(out, name, tuple(sorted(files)), why_not_plain, why_no_net_config)


@dataclass(frozen=True)
class _Trained:
    """A retraining that has ended, with the network of its last checkpoint."""

    retraining: Retrained
    test: Evaluation
    content: Mapping[str, Any]
    """The checkpoint."""
    network: Network
    classes: tuple[str, ...] | None
    """The names of the classes; None if the checkpoint does not have them."""
    preprocessing: Preprocessing | None


def _trained(runs: Runs, allow_modules: Collection[str]) -> _Trained:
    """Returns the retraining of these runs. Raises CheckpointError if its checkpoint is of another network, or not of
    the step that was tested."""
    retraining, test = whole(runs)
    content, where = read_checkpoint(retraining.folder)
    loaded = load_network_of(content, where, allow_modules=allow_modules)
    network, design = loaded.network.eval(), retraining.design
    if layers_of(network.architecture) != layers_of(design):
        found = f"is of {in_words(network.architecture)}, not of {in_words(design)}, which config.yaml has"
        raise CheckpointError(where, found, remedy="put the run's own checkpoints back")
    _refuse_another_step(content, where, retraining, test)
    return _Trained(retraining, test, content, network, loaded.classes, preprocessing_in(content, where))


def _files_to_load(trained: _Trained, name: str, *, safetensors: bool) -> tuple[dict[str, bytes], str, str]:
    """Returns the content of each file that a program loads: the entry point, the architecture and the weights. Also
    returns why there is no plain code and no net.config, each empty if there is."""
    design, content = trained.retraining.design, trained.content
    code, why_not_plain = None, ""
    try:
        code = code_of(trained.network)
    except NotPortableError as error:
        why_not_plain = str(error)
    state = portable_state(trained.network)
    weights: dict[str, Any] = {
        "format": CHECKPOINT, "network": in_words(design), **layers_of(design), "architecture": design.to_json(),
        **{key: content[key] for key in ("classes", "preprocessing", "epoch", "test") if key in content},
        "state_dict": state, "retrain": {"net": state},
    }  # fmt: skip
    records = trained.retraining.source.predicted if trained.retraining.source else ()
    files: dict[str, bytes] = {
        "hubconf.py": hubconf(name, code, trained.preprocessing, design.candidate_modules).encode(),
        "architecture.json": design.to_json(records).encode(),
    }
    why_no_net_config = ""
    try:
        files["net.config"] = (json.dumps(net_config_of(design), indent=4) + "\n").encode()
    except ValueError as error:  # the format cannot express this network
        why_no_net_config = str(error)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    files[WEIGHTS] = buffer.getvalue()
    if safetensors:
        files[SAFETENSORS] = _safetensors(dict(state), name)
    return files, why_not_plain, why_no_net_config


def _config(
    trained: _Trained, name: str, licence: str | None, versions: Mapping[str, str], files: Mapping[str, bytes]
) -> bytes:
    """Returns the content of config.json, which says in plain values what the network is and which files it has."""
    classes, preprocessing, size = trained.classes, trained.preprocessing, trained.retraining.design.complexity
    config: dict[str, Any] = {
        "format": FORMAT, "name": name, "weights": WEIGHTS, "classes": None if classes is None else list(classes),
        "input": None if preprocessing is None else preprocessing.record(), "params": size.params, "macs": size.macs,
        "test": trained.content.get("test"), "licence": licence, "software": versions,
        "sha256": {file: _sha256(text) for file, text in files.items()},
    }  # fmt: skip
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def _refuse_other_files(out: Path, overwrite: bool) -> None:
    """Raises ConfigError if the folder holds anything but, with `overwrite`, an earlier publication."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}", "is a file", "a folder")
    there = sorted(path.name for path in out.iterdir() if not _is_compiled(path)) if out.is_dir() else []
    if not there:
        return
    published = _published_files(out)
    if published is None:
        raise ConfigError(f"--out {out}", f"holds other files ({there[0]})", "an empty folder or a new one")
    if strange := [file for file in there if file not in published]:
        found = f"holds a publication and {strange[0]}, which is not of it"
        raise ConfigError(f"--out {out}", found, remedy="move that away, or choose another folder")
    if not overwrite:
        remedy = "choose another folder, or replace it with --overwrite"
        raise ConfigError(f"--out {out}", "holds a publication already", remedy=remedy)


def _is_compiled(path: Path) -> bool:
    """Returns whether a folder holds nothing but what Python has compiled: loading a hubconf.py makes one."""
    return path.name == "__pycache__" and path.is_dir() and all(file.suffix == ".pyc" for file in path.iterdir())


def _published_files(out: Path) -> set[str] | None:
    """Returns the names of the files of the publication in a folder; None if there is none."""
    try:
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(config, dict) or config.get("format") != FORMAT or not isinstance(config.get("sha256"), dict):
        return None
    return {*config["sha256"], "config.json", "README.md"}


def _refuse_another_step(content: dict[str, Any], where: str, retraining: Retrained, test: Evaluation) -> None:
    """Raises CheckpointError unless a checkpoint is that of the last epoch, whose weights were tested."""
    tested = content.get("test")  # None if images held out choose the epoch: the test comes after the last checkpoint
    other = isinstance(tested, dict) and (tested.get("top1"), tested.get("images")) != (test.top1, test.images)
    if other or content.get("epoch") != retraining.epochs:
        found = f"is not the checkpoint of the last epoch, to which the {test.top1:.2f} % of result.json belong"
        remedy = f"put the last checkpoint of {retraining.folder} back, or continue the run with --resume"
        raise CheckpointError(where, found, remedy=remedy)


def _safetensors(state: dict[str, torch.Tensor], name: str) -> bytes:
    try:
        from safetensors.torch import save
    except ImportError:
        remedy = "pip install 'proxylessnas[safetensors]'"
        raise UserError("--safetensors", "the package safetensors is not installed", remedy=remedy) from None
    content: bytes = save(state, metadata={"format": "pt", "name": name})
    return content


def _version() -> str:
    try:
        return version("proxylessnas")
    except PackageNotFoundError:
        return "of a checkout"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def summary_of(publication: Publication) -> Sequence[str]:
    """Returns what was written and how to load it, in lines."""
    p = publication
    lines = [f"{p.folder}: {', '.join(p.files)}"]
    if p.why_not_plain:
        lines.append(f"hubconf.py needs the package proxylessnas: {p.why_not_plain}")
    if p.why_no_net_config:
        lines.append(f"no net.config: {p.why_no_net_config}")
    lines.append(f'load it with torch.hub.load("{p.folder}", "{p.name}", source="local")')
    return lines
