"""The stages of a whole job, from the latency table to the report. Each works in a part of the job's folder."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import ConfigError, UserError
from engine.runs.stages import Done, Stage, sha256_of, sha256_of_values
from export.formats import FORMATS
from export.formats.base import WEIGHT_BITS, versions_of
from export.job import chosen_formats
from export.timings import TIMINGS
from proxyless_nas.shipping.config import ShipConfig
from proxyless_nas.shipping.deployment import DEPLOYMENT
from proxyless_nas.shipping.folder import CONFIG, Job, Records
from proxyless_nas.shipping.training import TRAINING
from report.page import report as write_report
from search.config import PEAK
from search.many.family import written_bounds


def refuse_impossible(config: ShipConfig, stages: Sequence[str]) -> None:
    """Raises UserError if one of the stages would refuse its settings hours later: a bound that is none, a format that
    is unknown or not installed."""
    limits = config.search.limits
    if "derive" in stages and config.derive.at:
        first = next((limit for limit in limits if limit.metric != PEAK), None)
        if first is None:
            found = "has bounds, but the search has no limit that they could be of"
            raise ConfigError("derive.at", found, remedy="give the search a limit, or leave derive.at out")
        try:
            written_bounds([str(bound) for bound in config.derive.at], first.metric, "the limit's unit")
        except ConfigError as error:
            raise error.at("derive.at") from None
    for name, part in (("export", config.export), ("int8", config.int8)):
        if name in stages and part is not None and part.to is not None:
            try:
                bits = config.int8.weight_bits if name == "int8" and config.int8 is not None else WEIGHT_BITS
                chosen_formats(part.to, FORMATS, config.export.batch, name == "int8", bits)
            except UserError as error:
                places = {"batch": "export.batch", "weight_bits": "int8.weight_bits"}
                raise error.at(places.get(error.where, f"{name}.to")) from None


def _report_inputs(job: Job, records: Records) -> dict[str, str]:
    versions = versions_of(["proxylessnas", "jinja2"]) | {"settings": sha256_of(job.out / CONFIG)}
    timings = [job.out / name / TIMINGS for name in ("export", "int8")]  # of other devices, by a kit
    added = {str(path.relative_to(job.out)): sha256_of(path) for path in timings if path.is_file()}
    made = {
        name: sha256_of_values(record.model_dump(mode="json")) for name, record in records.items() if name != "report"
    }
    return made | added | versions


def _report(job: Job, records: Records) -> Done:
    page = write_report(job.out, out=job.out / "report.html", allow_modules=job.modules)
    return Done(f"{page.stat().st_size / 1000:.0f} kB", [page])


STAGES: tuple[Stage[Job], ...] = (
    *TRAINING,
    *DEPLOYMENT,
    Stage("report", "writes report.html", ("report.html",), _report_inputs, _report),
)
"""The stages in their order."""
