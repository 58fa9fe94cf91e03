"""The YAML file of a whole job: the configurations of its search and of its retraining, and what follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from engine.config import IN_PYTHON, ConfigFile, Section, apply_overrides, extended, load_config, validate
from engine.errors import ConfigError
from engine.files import as_path, as_texts
from engine.shipped import located
from engine.wording import shown
from retrain.config import RetrainConfig
from search.config import SearchConfig

PARTS = ("search", "retrain")
"""The keys whose values are configurations of their own."""


class TableStage(Section):
    """How the latency tables of the limits are measured, those that are not there yet."""

    verify: int = Field(40, ge=6)
    """The number of fresh networks on which a table's error is measured."""


class DeriveStage(Section):
    """Networks for other bounds than the search's own, from the same search."""

    at: tuple[str | float, ...] = ()
    """Bounds of the first limit, as `proxyless-nas derive --at` takes them, e.g. "20%..80%x4". Each network is scored
    with the supernet's weights, and the report shows them as a front."""


class ExportStage(Section):
    """The files for runtimes."""

    to: tuple[str, ...] | None = None
    """The formats; null: every one whose runtime is installed."""
    batch: int | Literal["any"] | None = Field(None, ge=1)
    """The number of images that a file takes at once; null: any number where the format can, else 1."""
    layout: Literal["nchw", "nhwc"] | None = None
    """The layout of the images; null: the one in which the runtime computes."""
    normalise: bool = False
    """Whether the files take pixels from 0 to 255 and normalise them themselves."""


class Int8Stage(Section):
    """The int8 files, beside the float32 ones."""

    to: tuple[str, ...] | None = None
    """The formats; null: every one that has int8 files with such weights and is installed."""
    calibration_images: int = Field(512, ge=1)
    """The number of training images from which the ranges of the activations follow."""
    max_drop: float = Field(1.0, ge=0, le=100)
    """The most that int8 may lose of top-1 accuracy on the test images, in percentage points. A file that loses more is
    not kept; the job goes on without it."""
    keep_layers: int | tuple[str, ...] = 0
    """How many of the layers that cost most in int8 stay in float32, or their names."""
    weight_bits: Literal[7, 8] = 8
    """The bits of the weights; on x86 CPUs without VNNI, 7 makes ONNX Runtime fast and OpenVINO right, and costs
    accuracy."""


class TimeStage(Section):
    """The timings of the exported files on this machine."""

    rounds: int = Field(15, ge=2, le=1000)
    """The rounds in which all files are timed in turn."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the runtimes; null: the latency table's, or 1."""


class ShipConfig(ConfigFile):
    """A file of configs/ship/: a whole job."""

    search: SearchConfig
    """The search: the name of a configuration, a path, or `{extends: NAME, ...}` with keys that replace some of its."""
    retrain: RetrainConfig
    """The retraining of the network that the search derives; given as `search` is."""
    table: TableStage = TableStage()
    """How the latency tables of the search's limits are measured, those that are not there yet."""
    derive: DeriveStage = DeriveStage()
    """Networks for other bounds."""
    export: ExportStage = ExportStage()
    """The files for runtimes."""
    int8: Int8Stage | None = Int8Stage()
    """null: no int8 files."""
    time: TimeStage | None = TimeStage()
    """null: the exported files are not timed."""

    @classmethod
    def read(cls, source: str | Path | Mapping[str, Any] | Self, overrides: Sequence[str] = ()) -> Self:
        """Returns the validated content of a file; see `ConfigFile.read`.

        `data`, beside the parts, has keys of the section `data` that both parts share; a part's own go before them.
        Paths of configurations are relative to the file.
        """
        overrides = as_texts(overrides, "overrides")
        if isinstance(source, cls):
            if not overrides:
                return source
            source = source.model_dump(mode="json")
        if isinstance(source, Mapping):
            content, place = dict(source), Path(IN_PYTHON)
        elif isinstance(source, str | Path):
            place = located(as_path(source, IN_PYTHON))
            content = load_config(place)
        else:
            raise ConfigError(IN_PYTHON, f"got {shown(source)}", f"a path, a dictionary or a {cls.__name__}")
        shared = [text for text in overrides if text.startswith("data.")]
        apply_overrides(content, shared, str(place))  # first, since they concern both parts
        common = content.pop("data", None)
        if not isinstance(common, dict | None):
            raise ConfigError(f"{place}: data", f"got {shown(common)}", "a section of keys that both parts share")
        for name in PARTS:
            content[name] = _part(content.get(name), common or {}, f"{place}: {name}", place)
        apply_overrides(content, [text for text in overrides if text not in shared], str(place))
        for name in PARTS:  # an override may name another configuration
            if isinstance(content[name], str):
                content[name] = _part(content[name], common or {}, f"{place}: {name}", place)
        return validate(cls, content, str(place))


def _part(value: Any, common: Mapping[str, Any], where: str, place: Path) -> Any:
    """Returns the configuration that a part names, with its bases and the common data. Raises ConfigError."""
    if isinstance(value, ConfigFile):
        value = value.model_dump(mode="json")
    own = {"extends": value} if isinstance(value, str) else value
    if not isinstance(own, Mapping):
        found = "is missing" if own is None else f"got {shown(own)}"
        raise ConfigError(where, found, "the name of a configuration, a path, or `{extends: NAME, ...}`")
    data = own.get("data") or {}
    if common and isinstance(data, Mapping):
        own = {**own, "data": {**common, **data}}
    try:
        return extended(own, place)
    except ConfigError as error:
        raise (error if error.where.startswith(str(place)) else error.within(where)) from None
