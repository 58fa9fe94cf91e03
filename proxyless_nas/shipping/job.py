"""Runs a whole job in one folder, or checks what it has made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import config_text
from engine.errors import ConfigError
from engine.files import as_path, write_atomically
from engine.runs.lock import locked
from engine.runs.stages import StagesFile, read_stages, record_to_go_on_with, run_stages
from engine.wording import in_a_row, shown
from proxyless_nas.shipping.config import ShipConfig
from proxyless_nas.shipping.folder import CONFIG, Job, result_of
from proxyless_nas.shipping.stages import STAGES, refuse_impossible
from proxyless_nas.shipping.verification import Compared, compared


@dataclass(frozen=True)
class Shipped:
    """The result of a job, or of its stages so far."""

    out: Path
    stages: StagesFile
    met: bool | None
    """Whether the network meets every limit of the search; None if that is undecided, or if the search has not
    ended."""

    @property
    def report(self) -> Path | None:
        """The page about it; None if that stage has not ended."""
        record = self.stages.stages.get("report")
        return self.out / "report.html" if record is not None and record.outputs else None


def ship(
    config: Path | str | dict[str, object] | ShipConfig,
    out: Path | str,
    *,
    until: str | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Shipped:
    """Runs a whole job: latency table, search, derivation, retraining, evaluation, export, report.

    What is done is not done again: a job that was stopped, even killed, goes on where it was, and a change of the
    configuration or of a file repeats the stages that it concerns. config: a file of the kind of configs/ship/, the
    name of a shipped one, a dictionary or a model. out: the folder of the job. until: the last stage to run. say:
    called with a line for each stage. Raises a UserError for anything wrong that the user can mend.
    """
    folder = as_path(out, "out")
    names = [stage.name for stage in STAGES]
    if until is not None and until not in names:
        raise ConfigError("until", f"got {shown(until)}", in_a_row(names))
    settings = ShipConfig.read(config, overrides)
    job = Job(_in_full(folder), settings)
    refuse_impossible(settings, names[: None if until is None else names.index(until) + 1])
    with locked(folder):
        record_to_go_on_with(STAGES, folder, "ship")  # before a file is written
        write_atomically(folder / CONFIG, config_text(settings))
        stages = run_stages(STAGES, job, job.out, until=until, say=say)
    result = result_of(job)
    return Shipped(folder, stages, None if result is None else result.met)


def verify_ship(out: Path | str, *, timings: bool = False, say: Callable[[Compared], None] | None = None) -> bool:
    """Computes every recorded number of a job again, from what its stages have made, and returns whether all agree.

    out: the job's folder. timings: whether the derived network is timed again, too. say: called with each comparison.
    Raises ConfigError if the folder holds no job.
    """
    folder = as_path(out, "out")
    record = read_stages(folder) if folder.is_dir() else None
    if record is None or not (folder / CONFIG).exists():
        raise ConfigError(str(folder), "holds no job of several stages", "the folder of proxyless-nas ship --out")
    job = Job(_in_full(folder), ShipConfig.read(folder / CONFIG))
    good = True
    with locked(folder):
        for one in compared(job, record, timings=timings):
            good = good and one.same
            if say is not None:
                say(one)
    return good


def _in_full(folder: Path) -> Path:
    """Returns the absolute path of a folder, without `..`: its last part names the network."""
    return folder.resolve() if ".." in folder.parts else folder.absolute()
