"""Writes the model card of a published network, a README.md: only what its runs recorded, and what they did not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.data import Preprocessing
from engine.evaluation import Evaluation, wilson
from engine.quantities import TOP5_CLASSES, quantity
from latency.summary import summary
from report.runs import Retrained, Runs, Searched, UsedTable
from search.result import LimitFigures

UNKNOWN = "not known"
MOST_CLASSES = 20
"""The most classes whose names the card lists; config.json has all."""
_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


def model_card(
    name: str,
    runs: Runs,
    retraining: Retrained,
    test: Evaluation,
    *,
    preprocessing: Preprocessing | None,
    classes: Sequence[str] | None,
    why_no_plain_code: str,
    why_no_net_config: str,
    licence: str | None,
    versions: Mapping[str, str],
    hashes: Mapping[str, str],
) -> str:
    """Returns the text of README.md.

    preprocessing, classes: None if the checkpoint does not have them. why_no_plain_code, why_no_net_config: empty if
    the folder has them. versions: of the software that writes it. hashes: the SHA-256 of each file.
    """
    design = retraining.design
    c = design.complexity
    first = (
        f"An image classifier of {quantity(c.params, 'parameters')} and {quantity(c.macs, 'MACs')} at "
        f"{design.input_size} x {design.input_size} pixels, for {design.classes} classes: {test.top1:.2f} % top-1 on "
        f"{test.images} test images. A search for a network within a limit chose its layers (ProxylessNAS, "
        "[arXiv 1812.00332](https://arxiv.org/abs/1812.00332)); it was then trained"
        + (" from scratch." if retraining.from_scratch else ", beginning with the weights of another network.")
    )
    if runs.search is None and (retraining.source is None or not retraining.source.predicted):
        first = first.partition(" A search")[0]
    sections = {
        "How to load it": _loading(name, preprocessing, hashes, why_no_plain_code),
        "Accuracy": _accuracy(test, design.classes, retraining.selection),
        "Limits and latency": _limits(runs.search, retraining),
        "Latency table": _provenance(runs.search, retraining),
        "Data": _data(retraining, classes),
        "Network": _network(retraining, why_no_net_config),
        "Input": _input(preprocessing),
        "Training": _training(retraining),
        "Licence": licence or "Not stated.",
        "Software": ", ".join(f"{what} {version}" for what, version in versions.items())
        + ". The runs do not record the versions that they were trained with.",
        "Files": "\n".join(
            ["| file | SHA-256 |", "|---|---|", *(f"| {file} | `{value}` |" for file, value in hashes.items())]
        ),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
    return f"{_front_matter(licence)}\n# {name}\n\n{first}\n\n{body}\n"


def _front_matter(licence: str | None) -> str:
    """Returns the header that Hugging Face reads."""
    lines = ["library_name: pytorch", "pipeline_tag: image-classification"]
    lines += ["tags: [image-classification, neural-architecture-search, proxylessnas]"]
    if licence and _SPDX.fullmatch(licence):
        lines.insert(0, f"license: {licence.lower()}")
    elif licence:
        lines.insert(0, f"license: other\nlicense_name: {json.dumps(licence, ensure_ascii=False)}")
    return "\n".join(["---", *lines, "---"])


def _loading(name: str, preprocessing: Preprocessing | None, hashes: Mapping[str, str], why_not_plain: str) -> str:
    lines = ["```python", "import torch", ""]
    load = f'torch.hub.load("PATH OF THIS FOLDER", "{name}", source="local")'
    lines += [f"net = {load}  # in eval mode"]
    if preprocessing is not None and preprocessing.colours in (1, 3):
        preprocess = 'torch.hub.load("PATH OF THIS FOLDER", "preprocess", source="local", picture="photo.jpg")'
        lines += [f"images = {preprocess}", "probabilities = net(images)[0].softmax(dim=0)"]
        lines += ["", "print(net.class_names[probabilities.argmax()] if net.class_names else probabilities.argmax())"]
    lines += ["```", ""]
    if why_not_plain:
        needs = f"needs the package proxylessnas, since its network is not plain code: {why_not_plain}"
    else:
        needs = "needs torch alone (`preprocess` needs Pillow)"
    text = f"`hubconf.py` {needs}. `weights.pth` loads with `torch.load(..., weights_only=True)`; its entry "
    text += "`state_dict` has the weights. It is a checkpoint of proxylessnas, too: `proxyless-nas predict "
    text += "weights.pth photo.jpg`, and so do `evaluate --checkpoint` and `convert --weights`."
    if "weights.safetensors" in hashes:
        text += " `weights.safetensors` has the same weights."
    return "\n".join([*lines, text.replace(", and so do", "; so do")])


def _accuracy(test: Evaluation, classes: int, selection: str) -> str:
    rows = [("top-1", test.top1)] + ([("top-5", test.top5)] if classes >= TOP5_CLASSES else [])
    lines = ["| | % | 95 % interval |", "|---|--:|--:|"]
    for what, percent in rows:
        low, high = wilson(percent, test.images)
        lines.append(f"| {what} | {percent:.2f} | {low:.2f} to {high:.2f} |")
    text = f"Loss {test.loss:.4f} nats. Counted on {test.images} test images, {selection}. The intervals are Wilson's."
    lines += ["", text]
    return "\n".join(lines)


def _limits(search: Searched | None, retraining: Retrained) -> str:
    """Returns the limits of the search and how the network meets them."""
    if search is not None and search.result is not None:
        lines = ["| limit | asked | predicted | measured |", "|---|---|--:|--:|"]
        lines += map(_limit_row, search.result.limits)
        what = "The limit is" if len(search.result.limits) == 1 else "All limits are"
        words = {True: f"{what} met.", False: "The limits are NOT met.", None: "Whether they are met is not settled."}
        lines += ["", words[search.result.met]]
        measured = [limit.measured for limit in search.result.limits if limit.measured]
        if not measured:
            lines[-1] += " That is by prediction: the search did not measure the network."
        for m in measured:
            lines[-1] += f" Measured twice, independently: {m.median_ms:.4g} ms decided, the second timing gave "
            lines[-1] += f"{m.confirmation_ms:.4g} ms."
            lines[-1] += "" if m.believed else " Other work disturbed the timing that decided."
        return "\n".join(lines)
    records = retraining.source.predicted if retraining.source else ()
    if not records:
        return f"{UNKNOWN.capitalize()}: the search of this network was not given."
    lines = ["| limit | asked | predicted | measured |", "|---|---|--:|---|"]
    for record in records:
        unit = str(record.get("unit", ""))
        asked = next((f"{kind} {_value(record[kind], unit)}" for kind in ("at", "below") if kind in record), UNKNOWN)
        predicted = _value(record.get("value"), unit)
        lines.append(f"| {_cell(record.get('metric', UNKNOWN))} | {asked} | {predicted} | {UNKNOWN} |")
    return "\n".join([*lines, "", "As the architecture's file says; the search itself was not given."])


def _limit_row(limit: LimitFigures) -> str:
    m = limit.measured
    error = "" if m is None or m.standard_error_ms is None else f" ± {m.standard_error_ms:.2g}"
    measured = "" if m is None else f"{m.median_ms:.4g}{error} ms"
    return f"| {_cell(limit.name)} | {limit.asked} | {quantity(limit.predicted, limit.unit)} | {measured} |"


def _value(value: Any, unit: str) -> str:
    return quantity(value, unit) if isinstance(value, int | float) and not isinstance(value, bool) else UNKNOWN


def _provenance(search: Searched | None, retraining: Retrained) -> str:
    """Returns where the latencies that the search used come from."""
    if search is not None:
        return "\n\n".join(map(_of_table, search.tables.values()))
    records = retraining.source.predicted if retraining.source else ()
    lines = [
        f"`{record['table']}`, SHA-256 of its numbers `{record.get('table_sha256', UNKNOWN)}`; more is {UNKNOWN}."
        for record in records
        if record.get("table")
    ]
    return "\n\n".join(lines)


def _of_table(used: UsedTable) -> str:
    lines = [f"- file: `{used.path}`", f"- SHA-256 of its numbers: {f'`{used.sha256}`' if used.sha256 else UNKNOWN}"]
    table = used.table
    if table is None:
        return "\n".join([*lines, f"- device, method and error: {UNKNOWN}, no file with that hash was found"])
    cores = "" if table.device.cores is None else f", {table.device.cores} cores"
    threads = "" if table.threads is None else f", {table.threads} threads"
    lines += [
        f"- device: {_cell(table.device.name)}{cores} ({table.device.kind}, fingerprint {table.device.fingerprint})",
        f"- runtime: {table.runtime.name} {table.runtime.version}, batch {table.batch}, {table.dtype}{threads}",
        f"- date: {table.date}; {table.method.replace('_', ' ')}: {table.how}",
    ]
    if table.source:
        lines.append(f"- made from: {_cell(table.source)}")
    if table.verification:
        lines.append(f"- error: {summary(table.verification)}")
    else:
        lines.append(f"- error on fresh networks: {UNKNOWN}, it was not verified")
    return "\n".join(lines)


def _data(retraining: Retrained, classes: Sequence[str] | None) -> str:
    data = retraining.config.get("data", {})
    of_module = f" of the module `{data['module']}`" if data.get("module") else ""
    lines = [f"- data set: {_cell(data.get('name', UNKNOWN))}{of_module}"]
    for part in ("training images", "test images"):
        facts = (retraining.inputs or {}).get(part, {})
        sums = "; ".join(f"checksum of the {what} `{value}`" for what, value in facts.items() if what != "number")
        lines.append(f"- {part}: {facts.get('number', UNKNOWN)}" + (f" ({sums})" if sums else ""))
    if classes is None:
        lines.append(f"- classes: {retraining.design.classes}, whose names are {UNKNOWN}")
    else:
        more = f" and {len(classes) - MOST_CLASSES} more, see config.json" if len(classes) > MOST_CLASSES else ""
        lines.append(f"- classes: {', '.join(map(_cell, classes[:MOST_CLASSES]))}{more}")
    return "\n".join(lines)


def _network(retraining: Retrained, why_no_net_config: str) -> str:
    design, c = retraining.design, retraining.design.complexity
    lines = [f"- parameters: {c.params:,}", f"- MACs: {c.macs:,} for one image", f"- layers: {' '.join(design.names)}"]
    lines.append("- `architecture.json` describes it layer by layer (`proxyless-nas show architecture.json`)")
    if why_no_net_config:
        lines.append(f"- there is no `net.config`, the format of the ProxylessNAS project: {why_no_net_config}")
    else:
        lines.append(
            "- `net.config` is the same in the format of the ProxylessNAS and once-for-all projects; `proxyless-nas "
            "convert architecture.json net.config --weights weights.pth official.pth` writes the weights for it"
        )
    return "\n".join(lines)


def _input(preprocessing: Preprocessing | None) -> str:
    if preprocessing is None:
        return f"How images are prepared is {UNKNOWN}: an earlier version wrote the checkpoint."
    p = preprocessing
    grey = "grey, repeated in each channel" if p.colours == 1 < p.channels else "grey" if p.colours == 1 else "colours"
    return "\n".join(
        [
            f"- shape: (N, {p.channels}, {p.input_size}, {p.input_size}), float32 ({grey})",
            f"- resizing: {p.resize}",
            f"- mean {_numbers(p.mean)}, standard deviation {_numbers(p.std)}, of pixels in [0, 1]",
        ]
    )


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in dict.fromkeys(values))


def _training(retraining: Retrained) -> str:
    settings = {**retraining.config.get("retrain", {}), "seed": retraining.config.get("run", {}).get("seed")}
    lines = [f"- {key}: {_cell(value)}" for key, value in settings.items() if value is not None]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    """Returns a value for a line of Markdown."""
    return " ".join(str(value).split()).replace("|", "\\|")
