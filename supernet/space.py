"""Defines the search space: stem, a chain of edges, head. It is pure data, read from the YAML section `space`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from supernet.catalogue import (
    CANDIDATES,
    MOST_OF_A_NAME,
    Candidate,
    FeatureMixSpec,
    PoolClassifierSpec,
    SkipSpec,
    StemSpec,
    import_candidates,
    make_divisible,
)
from supernet.complexity import Complexity
from supernet.errors import InvalidError
from supernet.json_text import of_validation
from supernet.module_names import permitted
from supernet.ops import OpSettings
from supernet.own_candidates import answer, check_declared
from supernet.user_modules import presentable

MOST_CHANNELS = 1 << 16
LARGEST_INPUT = 1 << 13
"""The largest height and width of the input, in pixels."""
MOST_CLASSES = 1_000_000
MOST_EDGES = 10_000
"""The most edges of a space. Without a bound, a file with 10^9 edges would fill the memory before any other check."""
MOST_CANDIDATES = 1000
"""The most candidates of one edge."""
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]


def _with_lists(schema: Any) -> Any:
    """Returns a pydantic schema in which a tuple may be given as a list from Python too, as in YAML and JSON.

    Other types stay strict. The schemas of models inside have been treated by their own classes.
    """
    if isinstance(schema, list):
        return [_with_lists(inner) for inner in schema]
    if not isinstance(schema, dict) or schema.get("type") == "model":
        return schema
    inside = {key: _with_lists(value) for key, value in schema.items()}
    if inside.get("type") != "tuple":
        return inside
    given = core_schema.no_info_before_validator_function(lambda v: tuple(v) if isinstance(v, list) else v, inside)
    return core_schema.json_or_python_schema(json_schema=inside, python_schema=given)


class Section(BaseModel):
    """A part of the configuration of a space or of a chain: immutable, and strict about keys and types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Returns pydantic's schema of the model, in which a tuple may be given as a list."""
        schema = handler(source)
        model: Any = handler.resolve_ref_schema(schema)
        while model["type"] != "model":  # the model's own validators are around it
            model = model["schema"]
        model["schema"] = _with_lists(model["schema"])
        return schema


class ExactWidth(Section):
    """`width: {exact: 40}`: a number of channels that `width_multiplier` leaves alone."""

    exact: Channels
    """The number of channels."""


Width = Channels | ExactWidth


class StemConfig(Section):
    """`stem`: the first convolution (conv-BN-act)."""

    kernel: Literal[1, 3, 5, 7] = 3
    """Height and width of the kernel."""
    stride: Literal[1, 2] = 2
    """2 halves height and width."""
    width: Width = 32
    """Output channels."""


class StageConfig(Section):
    """One entry of `stages`: `depth` edges that share a width and a list of candidates."""

    width: Width
    """Output channels of each edge."""
    depth: int = Field(1, ge=1, le=MOST_EDGES)
    """The number of edges."""
    stride: Literal[1, 2] = 1
    """The stride of the stage's first edge; the others have stride 1."""
    candidates: tuple[str, ...] = Field(min_length=1, max_length=MOST_CANDIDATES)
    """Names from the catalogue; one name makes fixed edges. `skip` is dropped on edges that are not residual."""
    first: tuple[str, ...] | None = Field(None, min_length=1, max_length=MOST_CANDIDATES)
    """Candidates of the stage's first edge. null: those of `candidates`."""
    residual: bool = True
    """Whether edges of stride 1 and equal channels add their input. false: no edge of this stage does."""


class BNConfig(Section):
    """`bn`: the settings of batch normalisation."""

    eps: float = Field(1e-3, gt=0, le=1)
    """Added to the variance."""
    momentum: float = Field(0.1, gt=0, le=1)
    """The weight of the new batch in the running average, as in torch."""


class SpaceConfig(Section):
    """YAML section `space`."""

    input_size: int = Field(224, ge=1, le=LARGEST_INPUT)
    """Height and width of the input in pixels."""
    input_channels: int = Field(3, ge=1, le=1024)
    """Channels of the images: 3 for colour, 1 for grey."""
    classes: int = Field(1000, ge=2, le=MOST_CLASSES)
    """The number of classes."""
    stem: StemConfig = StemConfig()
    """The first convolution."""
    stages: tuple[StageConfig, ...] = Field(min_length=1, max_length=MOST_EDGES)
    """The edges, in the order in which they run."""
    feature_mix: Width = 1280
    """Output channels of the last 1x1 convolution."""
    width_multiplier: float = Field(1.0, gt=0, le=100)
    """The factor of every width that is not `{exact: ...}`; the product is rounded to a multiple of 8. 1 leaves all
    widths as written."""
    activation: Literal["relu6", "relu", "hswish"] = "relu6"
    """The activation function of all ops."""
    bn: BNConfig = BNConfig()
    """Batch normalisation of all ops."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """The share of features that are set to 0 before the classifier in training."""
    candidate_modules: tuple[str, ...] = ()
    """Your modules that register candidates: dotted names, or paths of .py files, in the working folder or else in the
    framework's own (docs/examples/...)."""

    @field_validator("candidate_modules")
    @classmethod
    def modules_are_importable(cls, modules: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Imports the modules.

        If the context has `allow_modules`, the space comes from a file that somebody else may have written, and only
        modules that the user allows are imported (supernet.module_names.permitted).
        """
        allowed = (info.context or {}).get("allow_modules")
        for module in modules if allowed is None else permitted(modules, allowed):
            import_candidates(module)
        return modules

    @model_validator(mode="after")
    def edges_are_legal(self) -> Self:
        for key, width in self._widths():
            if self.channels(width) > MOST_CHANNELS:
                raise InvalidError(
                    "width_multiplier",
                    f"got {self.width_multiplier:g}, which makes {key} {self.channels(width)} channels",
                    f"at most {MOST_CHANNELS}",
                )
        check_declared(Space(self).all_layers)  # Space raises InvalidError with the stage and the candidate at fault
        return self

    def _widths(self) -> list[tuple[str, int | ExactWidth]]:
        stages = [(f"stages.{i}.width", stage.width) for i, stage in enumerate(self.stages)]
        return [("stem.width", self.stem.width), *stages, ("feature_mix", self.feature_mix)]

    def channels(self, width: int | ExactWidth) -> int:
        """Returns the number of channels that `width` stands for."""
        if isinstance(width, ExactWidth):
            return width.exact
        return width if self.width_multiplier == 1 else make_divisible(width * self.width_multiplier)


@dataclass(frozen=True)
class Layer:
    """An op with its shapes, which together determine its computation and its cost. `str(layer)` is its key in latency
    tables."""

    spec: Candidate
    c_in: int
    c_out: int
    size: int
    """Height and width of the input in pixels."""
    stride: int = 1
    residual: bool = False
    """Whether the layer adds its input to the op's output."""

    def __str__(self) -> str:
        op = f"{self.spec}+residual" if self.residual else str(self.spec)
        return f"{op} {self.size}x{self.size}x{self.c_in}->{self.c_out} s{self.stride}"

    @property
    def is_skip(self) -> bool:
        """Whether the op is `skip`: the layer returns its input and costs nothing."""
        return isinstance(self.spec, SkipSpec)

    @property
    def size_out(self) -> int:
        """Height and width of the output in pixels."""
        return -(-self.size // self.stride)  # ceil, so that odd maps keep their last row

    @property
    def complexity(self) -> Complexity:
        """The layer's parameters and MACs."""
        return self.spec.complexity(self.c_in, self.c_out, self.size, self.stride)


@dataclass(frozen=True)
class Edge:
    """One place in the chain, with the candidates that it may take. An edge with a single candidate is fixed."""

    name: str
    """The stage and the edge's number in it, from 0: `stage1.0`."""
    candidates: tuple[str, ...]
    c_in: int
    c_out: int
    size: int
    """Height and width of the input in pixels."""
    stride: int
    residual: bool
    """Whether the edge adds its input to the op's output."""

    @property
    def stage(self) -> str:
        """The name of the edge's stage: `stage0` for the edge `stage0.1`."""
        return self.name.partition(".")[0]

    @property
    def searchable(self) -> bool:
        """Whether there is a choice: more than one candidate."""
        return len(self.candidates) > 1

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layer of each candidate on this edge."""
        shape = (self.c_in, self.c_out, self.size, self.stride, self.residual)
        return tuple(Layer(CANDIDATES[name], *shape) for name in self.candidates)


class Space:
    """A SpaceConfig resolved into layers. Immutable.

    Two spaces are equal if their configs are, wherever the modules of their candidates lie: a process registers each
    candidate's name once. `paths` in the methods has one candidate index per searchable edge, in the order of the
    chain, which is that of alpha's rows. Raises InvalidError if a candidate is unknown or illegal on its edge.
    """

    def __init__(self, config: SpaceConfig | Mapping[str, Any]):
        """Takes the section `space` of a YAML file, as a model or as a dictionary."""
        if isinstance(config, Mapping):
            try:
                config = SpaceConfig.model_validate(dict(config))
            except ValidationError as error:
                raise of_validation(error, "space") from None
        if not isinstance(config, SpaceConfig):
            found = f"got a value of type {type(config).__name__}"
            raise InvalidError("space", found, "a SpaceConfig, such as SearchConfig.read(file).space, or a dictionary")
        self.config = config
        stem_width = config.channels(config.stem.width)
        self.stem = Layer(
            StemSpec(config.stem.kernel), config.input_channels, stem_width, config.input_size, config.stem.stride
        )
        self.edges = tuple(_edges(config, self.stem.c_out, self.stem.size_out))
        last = self.edges[-1].layers[0]
        self.feature_mix = Layer(FeatureMixSpec(), last.c_out, config.channels(config.feature_mix), last.size_out)
        self.classifier = Layer(
            PoolClassifierSpec(config.dropout), self.feature_mix.c_out, config.classes, last.size_out
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self._resolved == other._resolved

    def __hash__(self) -> int:
        return hash(self._resolved)

    @cached_property
    def _resolved(self) -> SpaceConfig:
        """The config by which spaces are compared."""
        return self.config.model_copy(update={"candidate_modules": ()})

    @cached_property
    def searchable(self) -> tuple[Edge, ...]:
        """The edges that have more than one candidate."""
        return tuple(edge for edge in self.edges if edge.searchable)

    @cached_property
    def mask(self) -> np.ndarray:
        """(searchable edges, most candidates) bool: True where alpha has an entry."""
        counts = np.array([len(edge.candidates) for edge in self.searchable], dtype=int)
        return np.arange(counts.max(initial=0)) < counts[:, None]

    def op_settings(self, *, running_stats: bool) -> OpSettings:
        """Returns the settings that all ops of this space share. running_stats: see `OpSettings`."""
        bn = self.config.bn
        return OpSettings(self.config.activation, bn.eps, bn.momentum, running_stats)

    def check_paths(self, paths: Sequence[int]) -> None:
        """Raises InvalidError unless `paths` has the index of a candidate for each searchable edge."""
        if len(paths) != len(self.searchable):
            raise InvalidError(
                "", f"got {len(paths)} paths", f"one for each of {len(self.searchable)} searchable edges"
            )
        for edge, path in zip(self.searchable, paths, strict=True):
            if not 0 <= path < len(edge.candidates):
                found = f"path {path} is not one of its {len(edge.candidates)} candidates"
                raise InvalidError(f"edge {edge.name}", found)

    def edge_layers(self, paths: tuple[int, ...]) -> tuple[Layer, ...]:
        """Returns the layer that each edge takes, fixed edges included."""
        self.check_paths(paths)
        remaining = iter(paths)
        return tuple(edge.layers[next(remaining) if edge.searchable else 0] for edge in self.edges)

    def layers(self, paths: tuple[int, ...]) -> tuple[Layer, ...]:
        """Returns every layer of an architecture, stem and head included."""
        return (self.stem, *self.edge_layers(paths), self.feature_mix, self.classifier)

    def complexity(self, paths: tuple[int, ...]) -> Complexity:
        """Returns the parameters and MACs of an architecture, without building it."""
        return sum((layer.complexity for layer in self.layers(paths)), Complexity())

    @cached_property
    def places(self) -> tuple[tuple[str, Layer], ...]:
        """Every layer of the space with the name of its place, in the order of the chain: `stem`, each candidate of
        each edge, `feature_mix`, `classifier`."""
        edges = ((edge.name, layer) for edge in self.edges for layer in edge.layers)
        head = (("feature_mix", self.feature_mix), ("classifier", self.classifier))
        return (("stem", self.stem), *edges, *head)

    @cached_property
    def all_layers(self) -> tuple[Layer, ...]:
        """Each distinct layer of the space once. A latency table has to cover them."""
        return tuple(dict.fromkeys(layer for _, layer in self.places))


def _edges(config: SpaceConfig, c_in: int, size: int) -> list[Edge]:
    """Returns the chain of edges that follows a stem with `c_in` channels and `size` x `size` pixels at its output.
    Raises InvalidError."""
    if (count := sum(stage.depth for stage in config.stages)) > MOST_EDGES:
        raise InvalidError("stages", f"their depths add up to {count} edges", f"at most {MOST_EDGES}")
    edges = []
    for s, stage in enumerate(config.stages):
        for d in range(stage.depth):
            stride = stage.stride if d == 0 else 1
            c_out = config.channels(stage.width)
            residual = stage.residual and stride == 1 and c_in == c_out
            own_list = d == 0 and stage.first is not None
            names = (stage.first if own_list else stage.candidates) or ()
            key = f"stages.{s}.{'first' if own_list else 'candidates'}"
            if not own_list and not residual:
                names = tuple(name for name in names if name != "skip")
                if not names:
                    found = f"edge {d} is not residual, so 'skip' is dropped and no candidate is left"
                    raise InvalidError(key, found)
            _check_candidates(key, d, names, (c_in, c_out, stride, residual))
            edges.append(Edge(f"stage{s}.{d}", names, c_in, c_out, size, stride, residual))
            c_in, size = c_out, -(-size // stride)
    return edges


def _check_candidates(key: str, d: int, names: tuple[str, ...], shape: tuple[int, int, int, bool]) -> None:
    """Raises InvalidError, with `key` as its place, unless each name is a candidate that is legal on edge `d` of a
    stage. shape: input channels, output channels, stride, and whether the edge is residual."""
    for i, name in enumerate(names):
        if name not in CANDIDATES:
            near = difflib.get_close_matches(name[:MOST_OF_A_NAME], CANDIDATES, n=1, cutoff=0.7)
            raise InvalidError(
                key,
                f"unknown candidate '{name[:MOST_OF_A_NAME]}'",
                "a name registered in supernet/catalogue.py or by space.candidate_modules",
                suggestion=near[0] if near else "",
            )
        if name in names[:i]:
            raise InvalidError(key, f"'{name}' is listed twice", remedy="list each candidate once")
        spec = CANDIDATES[name]
        reason = answer(spec, "why_illegal", spec.why_illegal, *shape)
        if reason is not None and not isinstance(reason, str):
            raise InvalidError(
                key,
                f"candidate '{name}': why_illegal() returned a value of type {type(reason).__name__}",
                "the reason as text, or None",
                "correct it",
            )
        if reason:
            found = f"'{name}' cannot be on edge {d} of this stage: {presentable(reason)}"
            shared = d == 0 and not key.endswith("first")
            remedy = "give the first edge its own list with `first: [...]`" if shared else ""
            raise InvalidError(key, found, remedy=remedy)
