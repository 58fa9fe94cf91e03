"""The search YAML: top-level sections space, measure, data, limits, search, run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.config import ConfigFile, Section, UserPath
from engine.data import DataConfig
from engine.data.config import MOST_IMAGES
from engine.errors import InvalidError
from engine.nearest import nearest
from engine.percent import Percent
from engine.run_config import LARGEST_BATCH, LARGEST_LR, MOST_EPOCHS, NEVER, RunConfig
from engine.wording import number_remedy, shown
from latency.config import LARGEST_ERROR, MeasureConfig
from search.learn.forms import LARGEST_POWER, LARGEST_WEIGHT, Loss, LossForm, Projection
from search.learn.modes import MODES, OWN, GateGradient, Mode, is_reference
from supernet.space import Space, SpaceConfig

_WITH_LETTERS = re.compile(r"(?P<number>\d{1,20}(\.\d{1,20})?(e[-+]?\d{1,2})?)\s*(?P<letters>[a-zA-Zµ]{1,12})")
_FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9}
_COUNTED = re.compile(r"(?P<factor>[kmg])?(macs?|flops?|params?|parameters|ops|b|bytes)?", re.IGNORECASE)
"""What somebody may write behind a number of MACs, parameters or bytes."""
_MS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "µs": 1e-3}
"""Milliseconds in each unit of time that somebody may write."""

PEAK = "peak_activation_bytes"
COMPUTED = ("macs", "params", "weight_bytes", PEAK)
"""Metrics that follow from the space; the others are read from a table."""
BoundKind = Literal["at", "below"]
"""at: a limit's budget is to be used up; below: its bound is an upper bound only."""
REFERENCE = "path/to/file.py:name or package.module:name"
"""What a setting that names a function of the user's own accepts, for messages."""
MOST_TABLES = 100
"""The most tables of a limit, and the most limits of a search."""


def unknown_metric(metric: str, columns: Sequence[str], where: str) -> InvalidError:
    """Returns the error for a metric that is neither latency, nor computed, nor in `columns`; it suggests the nearest
    one."""
    accepted = tuple(dict.fromkeys(("latency", *COMPUTED, *columns)))
    # nearest in meaning, not in letters
    near = "macs" if metric.lower() in ("flops", "mult_adds") else nearest(metric, accepted)
    return InvalidError(
        where, f"got '{metric}'", f"{', '.join(accepted[:-1])} or {accepted[-1]}", suggestion=near,
    )  # fmt: skip


def in_full(text: str) -> str:
    """Returns a number that ends in k, M or G (300M, 3.5 k) without that letter: 300000000, 3500. Any other text is
    returned unchanged."""
    parts = _WITH_LETTERS.fullmatch(text.strip())
    if not parts or parts["letters"] not in _FACTORS:
        return text
    return f"{float(parts['number']) * _FACTORS[parts['letters']]:.15g}"  # 1.1M: 1100000, not 1100000.0000000002


def written_bound(text: str, metric: str) -> float | Percent:
    """Returns the bound of a limit that is written as text: a number for `300M`, or a Percent.

    With a metric of COMPUTED, the number may end in k, M or G, for thousands, millions and thousands of millions; a
    space may stand before the letter. Raises InvalidError, which says what to write, for anything else.
    """
    text = text.strip()
    if Percent.matches(text):
        return Percent(text)
    counted = metric in COMPUTED
    parts = _WITH_LETTERS.fullmatch(text)
    number, letters = (parts["number"], parts["letters"]) if parts else ("", "")
    if counted and letters in _FACTORS and (bound := float(in_full(text))) > 0:
        return bound
    accepted = "a number in the metric's unit, or 0% to 100%, such as 50%"
    remedy = number_remedy(text)
    if counted:
        accepted = f"{accepted}; k, M or G may follow a number, such as 300M"
        meant = letters and _COUNTED.fullmatch(letters)
        if meant and float(number):
            factor = next((factor for factor in _FACTORS if factor.lower() == (meant["factor"] or "").lower()), "")
            remedy = f"write {number}{factor}"
    elif metric == "latency" and letters in _MS:
        remedy = f"write {float(number) * _MS[letters]:.15g}"
    elif metric == "latency" and _COUNTED.fullmatch(letters):
        remedy = "write a time in ms, or set metric: macs (or params), if it is a number of these"
    elif letters in _FACTORS:
        remedy = f"write {in_full(text)}"
    elif letters:
        remedy = "write the number alone, in that unit"
    raise InvalidError("", f"got {shown(text)}", accepted, remedy)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


class LimitConfig(Section):
    """One entry of `limits`: a metric of the derived network, and its bound. Exactly one of `at` and `below` is
    set."""

    metric: str = Field(min_length=1)
    """latency; macs (of one image), params or weight_bytes (params in measure.dtype), which need no table; a column of
    the table, such as energy_mj; peak_activation_bytes (defined in supernet/activation.py, needs no table), which is a
    largest value instead of a sum, so it takes `below` and removes candidates before the search; or, with `function`, a
    name of your own."""
    function: str | None = None
    """path/to/file.py:name of a function name(layer, place) that returns what a layer contributes to a metric of your
    own (docs/extending/metric.md), in place of a table."""
    table: UserPath | None = None
    """Latency table; for latency and for columns."""
    table_sha256: str | None = None
    """LatencyTable.sha256, filled in at start, so that a run cannot be resumed with other numbers. Verifying a table
    changes none of them. If it is given, it is checked."""
    tables: tuple[UserPath, ...] = Field((), max_length=MOST_TABLES)
    """The tables of several devices, in place of `table`: one limit on all of them."""
    tables_sha256: tuple[str, ...] = ()
    """Filled in at the start, like table_sha256."""
    combine: Literal["weighted_sum", "worst_case"] | None = None
    """How `tables` are combined: sum_k w_k F_k, or max_k w_k F_k."""
    weights: tuple[float, ...] = ()
    """w_k in (0, 1e6], one per entry of `tables`. By default 1/k each in a weighted sum (the mean), 1 each in a worst
    case."""
    measure: MeasureConfig | None = None
    """How this limit's table was measured, if that differs from the search's `measure`: for a limit on a second
    device. Keys that it does not set are taken from there. With `tables`, it cannot be set: they are compared with the
    search as tables of external devices are."""
    at: float | str | None = None
    """The bound to use up: derive within `tolerance` below it. A number in the metric's unit, or N% of the reachable
    range. macs, params and bytes may be written with k, M or G: 300M is 300e6."""
    below: float | str | None = None
    """An upper bound only, written as `at`."""
    tolerance: float = Field(0.02, ge=0.001, lt=1)
    """With `at`: the derived network lies in [bound (1 - tolerance), bound]. The fewer networks a window holds, the
    longer its integer program takes; below 0.001, a difference that no timing shows, it takes minutes and more."""
    missing: Literal["error", "interpolate"] = "error"
    """interpolate: predict entries that the table lacks from those of the same op family (latency/interpolation.py)."""
    largest_error: float = Field(LARGEST_ERROR, gt=0, le=1000)
    """The largest verified MAPE, in percent, with which a table is accepted. For metric latency."""

    @field_validator("at", "below")
    @classmethod
    def bound_is_a_number_or_percent(cls, bound: float | str | None, info: ValidationInfo) -> float | str | None:
        if isinstance(bound, str):
            return written_bound(bound, info.data.get("metric", ""))
        if bound is not None and bound <= 0:
            raise InvalidError("", f"got {bound}", "a number above 0 or a percentage such as 50%")
        return bound

    @model_validator(mode="after")
    def exactly_one_bound(self) -> Self:
        if (self.at is None) == (self.below is None):
            accepted = "exactly one of `at` (use the budget) and `below` (an upper bound)"
            raise InvalidError(expected=accepted, remedy="set the other to null")
        if self.metric == PEAK and self.below is None:
            raise InvalidError("at", f"remove it, {PEAK} only has an upper bound", remedy=f"write below: {self.at}")
        return self

    @model_validator(mode="after")
    def several_tables_are_combined(self) -> Self:
        if not self.tables:
            if self.combine is not None or self.weights or self.tables_sha256:
                given = "combine" if self.combine else "weights" if self.weights else "tables_sha256"
                raise InvalidError(given, "remove it, or give several `tables` in place of `table`")
            return self
        if self.table is not None:
            found = "remove it, `tables` has the tables of this limit"
            raise InvalidError("table", found, remedy="give one of the two")
        if len(self.tables) < 2 or len(set(self.tables)) < len(self.tables):
            found = f"got {_listed(self.tables)}"
            raise InvalidError("tables", found, "at least two different files", "use `table`")
        if self.combine is None:
            accepted = "weighted_sum or worst_case for several `tables`"
            raise InvalidError("combine", "is missing", accepted, "add it")
        if self.measure is not None:
            found = "remove it, the tables of several devices are not compared with one `measure`"
            raise InvalidError("measure", found)
        for name in ("weights", "tables_sha256"):
            count = len(getattr(self, name))
            if count not in (0, len(self.tables)):
                accepted = f"one for each of the {len(self.tables)} tables"
                raise InvalidError(name, f"got {count}", accepted)
        if any(not 0 < weight <= LARGEST_WEIGHT for weight in self.weights):
            accepted = f"numbers above 0, at most {LARGEST_WEIGHT:g}"
            raise InvalidError("weights", f"got {shown(self.weights)}", accepted)
        return self

    @model_validator(mode="after")
    def a_table_where_numbers_are_measured(self) -> Self:
        if self.function is not None:
            if self.metric in ("latency", *COMPUTED) or not self.metric.isidentifier():
                expected = "a name of your own for what `function` computes, of letters, digits and _"
                raise InvalidError("metric", f"got {shown(self.metric)}", expected)
            if self.files or self.missing == "interpolate":
                raise InvalidError("function", "remove it, or the table that the metric is in")
            if not is_reference(self.function):
                raise InvalidError("function", f"got {shown(self.function)}", REFERENCE)
        elif self.metric in COMPUTED:
            if self.files:
                raise InvalidError("table", f"remove it, {self.metric} are computed from the space")
        elif not self.files:
            if self.metric == "latency":
                remedy = "a latency limit reads its milliseconds from a latency table"
                raise InvalidError("table", "is missing", remedy=remedy)
            raise unknown_metric(self.metric, ["a column of a `table`", "a name of yours with a `function`"], "metric")
        if self.missing == "interpolate" and not self.files:
            raise InvalidError("missing", f"remove it, {self.metric} have no table that could lack entries")
        # a default is written into a run's config.yaml for every metric
        if self.largest_error != LARGEST_ERROR and self.metric != "latency":
            raise InvalidError("largest_error", f"remove it, only latency is verified, not {self.metric}")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """The tables behind this limit: none, one or several."""
        return self.tables if self.table is None else (self.table,)

    @property
    def shares(self) -> tuple[float, ...]:
        """The weight of each of `files`."""
        if self.weights:
            return self.weights
        count = len(self.files)
        return (1 / count if self.combine == "weighted_sum" else 1.0,) * count

    @property
    def kind(self) -> BoundKind:
        """The key that has the bound."""
        return "below" if self.at is None else "at"

    @property
    def bound(self) -> float | str:
        """The bound as it is written: a number in the metric's unit, or a percentage of the reachable range."""
        bound = self.below if self.at is None else self.at
        assert bound is not None  # validated above
        return bound


class ReinforceConfig(Section):
    """`search.reinforce`, read with arch_update: reinforce (Sec. 3.3.2)."""

    samples: int = Field(10, ge=1, le=1000)
    """M: networks per update, all on one validation batch."""
    exponent: float = Field(0.1, ge=0, le=LARGEST_POWER)
    """w in the reward accuracy * (T / latency)^w."""
    baseline: Literal["moving_average", "leave_one_out"] = "moving_average"
    """What is subtracted from a reward: the moving average of earlier rewards, or the mean of the other samples."""
    limits: Literal["reward", "projection"] = "reward"
    """How limits enter. reward: by the published factor, which pulls towards cheaper networks whatever T is.
    projection: the reward is the accuracy alone, and alpha is projected onto E = T as in the gradient modes."""
    reward: str | None = None
    """path/to/file.py:name of a function of a `Sampled` network (search/learn/reinforce.py) that returns its reward, in
    place of the above one; `exponent` is not used then."""

    @property
    def weight_of_costs(self) -> float:
        """w; 0 if the limits enter by projection, so that the reward is the accuracy alone."""
        return self.exponent if self.limits == "reward" else 0.0

    @property
    def divides_by_costs(self) -> bool:
        """Whether the reward has the published factor (T / cost)^w."""
        return self.reward is None and self.weight_of_costs > 0

    @model_validator(mode="after")
    def leave_one_out_needs_two(self) -> Self:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise InvalidError("samples", "got 1", "at least 2 with baseline leave_one_out")
        return self


class RegressionConfig(Section):
    """`search.regression`, read with arch_update: regression (search/learn/regression.py)."""

    samples: int = Field(8, ge=2, le=1000)
    """Networks per architecture step, all on one validation batch. They cost a forward pass each, no backward pass."""
    memory: int = Field(100, ge=1, le=NEVER)
    """Architecture steps after which the weight of an evaluation has fallen to 1/e, since the supernet's weights have
    changed meanwhile."""
    final_steps: int = Field(300, ge=0, le=NEVER)
    """Architecture steps after the last weights step. They discard the evaluations of the search and give all new ones
    the same weight, so alpha ends as a fit to the final weights alone. With 0, the evaluations of the search are
    kept."""


class EntropyConfig(Section):
    """`search.entropy`: adds - w H(p) to the loss, with H the mean entropy of an edge in nats; w moves in a straight
    line."""

    start: float = Field(ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """w at the start of the search. Above 0 it keeps alpha undecided."""
    end: float = Field(0.0, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """w at the end of the search. Below 0 it drives alpha to decide."""


class TermConfig(Section):
    """An entry of `search.terms`: a term of alpha's loss from a user's file (docs/extending/objective.md)."""

    function: str
    """path/to/file.py:name or package.module:name, called as name(p, space, progress)."""
    weight: float = Field(1.0, ge=-LARGEST_WEIGHT, le=LARGEST_WEIGHT)
    """The factor of the term; below 0 the term is maximised."""


class SettledConfig(Section):
    """`search.stop_when_settled`: ends the search before `search.epochs` if no path probability has moved by more than
    `change` for `epochs` epochs."""

    change: float = Field(0.01, gt=0, lt=1)
    """The largest change of a path probability that counts as none."""
    epochs: int = Field(5, ge=1, le=MOST_EPOCHS)
    """The epochs of the search without a larger change after which it ends."""


class SearchSettings(Section):
    """YAML section `search`. Epochs, batches and alpha's Adam default to the published settings (arXiv 1812.00332, Sec.
    4); how the weights and alpha learn, the loss and the derivation do not (docs/design.md)."""

    arch_update: str = "regression"
    """How alpha learns. regression: from the losses of whole networks, all evaluations together, while candidates are
    trained evenly (search/learn/regression.py). As published: full, full_v2 and two_path follow Eq. 4 (Sec. 3.2),
    reinforce follows Sec. 3.3.2, and in these four the weights are trained on paths that alpha draws.
    path/to/file.py:name is a class of your own, for which they are, too (docs/extending/arch_update.md)."""
    gate_gradient: str | None = None
    """How a gradient mode computes CE's gradient in alpha from dL/dg. first_order, the default, is as published (Eq.
    4): its difference between two candidates is wrong by half the curvature of the loss between them, which keeps alpha
    undecided in a trained supernet. second_order removes this error (ReinMax, arXiv 2304.08612; docs/design.md). Both
    take the same time. path/to/file.py:name is a function of your own (docs/extending/estimator.md)."""
    loss: Loss | None = None
    """How limits enter the gradient modes; projection if it is not set. REINFORCE has a reward instead. form may be
    path/to/file.py:name of a class of your own (docs/extending/loss_form.md)."""
    reinforce: ReinforceConfig | None = None
    """Settings of arch_update reinforce."""
    regression: RegressionConfig | None = None
    """Settings of arch_update regression."""
    entropy: EntropyConfig | None = None
    """A term of alpha's loss that delays or hastens its decision; none if null. Not for regression."""
    terms: tuple[TermConfig, ...] = Field((), max_length=100)
    """Terms of alpha's loss from your own files."""
    stop_when_settled: SettledConfig | None = None
    """An end of the search before its last epoch; none if null."""
    warmup_epochs: int = Field(40, ge=0, le=MOST_EPOCHS)
    """Epochs of weight training before the search, which leave alpha as it is. They are not counted in `epochs`. Their
    paths are balanced (supernet/balance.py)."""
    epochs: int = Field(120, ge=1, le=MOST_EPOCHS)
    """Epochs of the search, in which alpha learns; they come after the warm-up."""
    batch_size: int = Field(256, ge=2, le=LARGEST_BATCH)
    """Images of a batch, of weights steps and architecture steps alike, in all processes together; BN needs at least 2
    images in each process."""
    paths_per_step: int | None = Field(None, ge=1, le=1000)
    """Networks that share the images of a weights step, each with a part of them; null: 2 with regression, 1 as
    published with the others. With more networks, a step depends less on which ones were drawn, but BN is noisier."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """The optimizer of the weights. adamw: betas 0.9 and 0.999, no decay on BN and biases, a linear start over the
    first 2 % of the steps. sgd: Nesterov, as published; a supernet, of which each step trains a part, learns more
    slowly with it (docs/results.md)."""
    lr: float | None = Field(None, gt=0, le=LARGEST_LR)
    """Start of the cosine over warm-up and search; null: 0.004 with adamw, 0.025 with sgd."""
    warmup_lr: float | None = Field(None, gt=0, le=LARGEST_LR)
    """Start of a cosine of the warm-up's own, as published (0.05); null: one cosine over warm-up and search."""
    weight_decay: float | None = Field(None, ge=0, le=LARGEST_LR)
    """Weight decay; null: 0.05 with adamw, 4e-5 with sgd."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of sgd; adamw does not use it."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Label smoothing of the weights' loss; alpha's loss has none."""
    arch_lr: float = Field(1e-3, gt=0, le=LARGEST_LR)
    """Learning rate of alpha's Adam, in the published modes."""
    arch_betas: tuple[float, float] = (0.0, 0.999)
    """Betas of alpha's Adam, in the published modes."""
    arch_every: int = Field(5, ge=1, le=NEVER)
    """One architecture step per this many weights steps."""
    derive: Literal["constrained", "argmax"] = "constrained"
    """How the network is chosen. constrained: the likeliest one within the limits, exactly. argmax: the likeliest
    candidate of each edge, whatever it costs, as published."""
    derive_among: int = Field(1, ge=1, le=1000)
    """With derive constrained, the number of likeliest architectures that meet the limits, of which the one with the
    smallest validation loss with the supernet's weights is taken. 1 takes the likeliest."""
    evaluation_images: int | None = Field(None, ge=1, le=MOST_IMAGES)
    """Validation images that score the derived network during the search; null takes all."""
    bn_batches: int = Field(20, ge=1, le=100_000)
    """Training batches that collect a derived network's BN statistics."""
    compile: bool = False
    """Run each distinct candidate through torch.compile and keep the programs that are faster here. Costs minutes at
    the start, and a resumed search then equals an uninterrupted one up to rounding, no longer bit for bit."""

    @property
    def mode(self) -> Mode:
        """The meaning of `arch_update`."""
        return OWN if is_reference(self.arch_update) else MODES[self.arch_update]

    @property
    def resolved_paths_per_step(self) -> int:
        """`paths_per_step`, or its default if it is not set."""
        return self.paths_per_step or self.mode.paths_per_step

    @property
    def resolved_lr(self) -> float:
        """`lr`, or its default if it is not set."""
        return self.lr or (4e-3 if self.optimizer == "adamw" else 0.025)

    @property
    def resolved_weight_decay(self) -> float:
        """`weight_decay`, or its default if it is not set."""
        return self.weight_decay if self.weight_decay is not None else 0.05 if self.optimizer == "adamw" else 4e-5

    @property
    def resolved_gate_gradient(self) -> str:
        """`gate_gradient`, or its default if it is not set."""
        return self.gate_gradient or "first_order"

    @property
    def resolved_loss(self) -> LossForm:
        """`loss`, or its default if it is not set."""
        return self.loss or Projection()

    @property
    def resolved_reinforce(self) -> ReinforceConfig:
        """`reinforce`, or its defaults if it is not set."""
        return self.reinforce or ReinforceConfig()

    @property
    def resolved_regression(self) -> RegressionConfig:
        """`regression`, or its defaults if it is not set."""
        return self.regression or RegressionConfig()

    @property
    def projects(self) -> bool:
        """Whether alpha is projected onto the limits after each of its steps."""
        if self.arch_update == "reinforce":
            return self.resolved_reinforce.limits == "projection"
        return self.resolved_loss.projects

    @field_validator("arch_update", "gate_gradient")
    @classmethod
    def a_name_of_ours_or_a_reference(cls, name: str | None, info: ValidationInfo) -> str | None:
        known = tuple(MODES) if info.field_name == "arch_update" else get_args(GateGradient)
        if name is not None and name not in known and not is_reference(name):
            expected = f"{', '.join(known)} or path/to/file.py:name"
            near = nearest(name, known)
            raise InvalidError("", f"got {shown(name)}", expected, suggestion=near)
        return name

    @field_validator("arch_betas")
    @classmethod
    def betas_are_decays(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise InvalidError("", f"got {list(betas)}", "two numbers in [0, 1)")
        return betas

    @field_validator("momentum")
    @classmethod
    def momentum_of_sgd(cls, momentum: float, info: ValidationInfo) -> float:
        if info.data.get("optimizer") == "adamw" and momentum != cls.model_fields["momentum"].default:
            found = f"got {momentum}, but optimizer is adamw"
            raise InvalidError("", found, remedy="remove it, or set optimizer: sgd")
        return momentum

    @model_validator(mode="after")
    def update_and_its_settings_agree(self) -> Self:
        update = self.arch_update
        reason = self.mode.refuses(self.loss.form, projects=self.loss.projects) if self.loss else None
        if reason:
            raise InvalidError("loss", reason, remedy="remove it or choose a gradient arch_update")
        if not self.mode.differentiates_gates and self.gate_gradient is not None:
            remedy = "remove it (or set it to null) or choose a gradient arch_update"
            raise InvalidError("gate_gradient", f"{update} differentiates no gates", remedy=remedy)
        if self.batch_size < 2 * self.resolved_paths_per_step:
            raise InvalidError(
                "paths_per_step",
                f"{self.resolved_paths_per_step} networks would share a batch of {self.batch_size} images",
                f"at most {self.batch_size // 2} (BN needs 2 images for each)",
                "lower it, or raise batch_size",
            )
        for name in ("reinforce", "regression"):
            if update != name and getattr(self, name) is not None:
                remedy = f"remove it or set arch_update: {name}"
                raise InvalidError(name, f"arch_update is {update}", remedy=remedy)
        if not self.mode.follows_gradient and (self.entropy or self.terms):
            given = "entropy" if self.entropy else "terms"
            found = f"adds to a gradient of alpha, which {update} does not have"
            raise InvalidError(given, found, remedy="remove it or choose another arch_update")
        return self


class SearchConfig(ConfigFile):
    """A file of configs/search/, one per target hardware."""

    space: SpaceConfig
    """What is searched."""
    measure: MeasureConfig = MeasureConfig()
    """On what device, and how, the latency table is measured."""
    data: DataConfig
    """The images."""
    limits: tuple[LimitConfig, ...] = Field(min_length=1, max_length=MOST_TABLES)
    """What the derived network must meet."""
    search: SearchSettings = SearchSettings()
    """How the search learns."""
    run: RunConfig = RunConfig()
    """Where the program runs, and how often it reports."""

    @field_validator("run")
    @classmethod
    def gradients_are_not_scaled(cls, run: RunConfig) -> RunConfig:
        if run.amp == "fp16":
            found = "got 'fp16', which is for retrainings: its gradients have to be scaled"
            raise InvalidError("amp", found, "'bf16' or 'none'", "choose one of them")
        return run

    @model_validator(mode="after")
    def there_is_something_to_search(self) -> Self:
        if not Space(self.space).searchable:
            found = "no edge has more than one candidate"
            raise InvalidError("space.stages", found, remedy="give at least one a choice")
        return self

    @model_validator(mode="after")
    def as_many_limits_as_the_loss_takes_and_no_twins(self) -> Self:
        self.search.resolved_loss.check_count(len(self.additive))
        keys = [(limit.metric, limit.files, limit.combine) for limit in self.limits]
        if len(set(keys)) < len(keys):
            found = "two entries have the same metric and table"
            raise InvalidError("limits", found, remedy="keep one of them")
        return self

    @property
    def additive(self) -> dict[int, LimitConfig]:
        """The limits on sums over layers, by their place in `limits`; they alone act on alpha and on the derivation."""
        return {i: limit for i, limit in enumerate(self.limits) if limit.metric != PEAK}
