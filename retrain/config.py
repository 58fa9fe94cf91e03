"""Defines the YAML file of a retraining: sections data, retrain and run. The space comes with the architecture."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from engine.config import ConfigFile, Section, UserPath
from engine.data import DataConfig
from engine.data.augmentation import LEAST_AREA, MOST_MAGNITUDE, Augmentation, Policy
from engine.data.config import MOST_IMAGES
from engine.errors import InvalidError
from engine.run_config import LARGEST_BATCH, LARGEST_LR, MOST_EPOCHS, RunConfig

MOST_PIXELS = 8192
"""The largest height and width of training images."""


class AugmentSettings(Section):
    """YAML section `retrain.augment`: how training images are changed. Each is cropped at random and, if a mirrored
    image is one of its class, mirrored at random; the defaults add what the published training does."""

    policy: Policy = "published"
    """published: brightness by 32/255 and saturation by 0.5 for image files, nothing for sets in memory. none: nothing.
    jitter: brightness, contrast and saturation by 0.4. randaugment: two random operations of strength `magnitude`
    (arXiv 1909.13719). trivialaugment: one of random strength (arXiv 2103.10158)."""
    magnitude: int = Field(9, ge=0, le=MOST_MAGNITUDE)
    """randaugment only: the strength on torchvision's scale, of which 30 is the strongest. timm's `m9` is 27 here."""
    erasing: float = Field(0.0, ge=0, le=1)
    """The probability that a random rectangle of an image is erased."""
    mixup: float = Field(0.0, ge=0, le=100)
    """The parameter of the beta distribution by which pairs of images are mixed (arXiv 1710.09412); 0: they are not."""
    cutmix: float = Field(0.0, ge=0, le=100)
    """The parameter of the beta distribution of the area that one image of a pair gets from the other (arXiv
    1905.04899); 0: none. With `mixup` too, each batch has one of the two, at random."""
    least_area: float = Field(LEAST_AREA, gt=0, le=1)
    """Image files: the smallest share of a picture's area in a training crop."""
    sizes: tuple[int, ...] = Field((), max_length=100)
    """Height and width of training images in pixels, for as many equal parts of the training: [176] trains at a smaller
    size than it evaluates at (arXiv 1906.06423), [128, 176, 224] at growing ones. Empty: the size of the input."""
    weaker_below: float = Field(0.0, ge=0, le=1e15)
    """Networks of fewer multiply-accumulates get the published policy alone, without erasing, mixup and cutmix, which
    make tiny networks worse (NetAug, arXiv 2110.08890). 0: none is too small."""

    @field_validator("sizes")
    @classmethod
    def sizes_are_pixels(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        for size in sizes:
            if not 1 <= size <= MOST_PIXELS:
                raise InvalidError("", f"got {size}", f"pixels from 1 to {MOST_PIXELS}")
        return sizes

    def of(self, epochs: int) -> Augmentation:
        """Returns what changes the images one by one, in a training of so many epochs."""
        return Augmentation(self.policy, self.magnitude, self.erasing, self.least_area, self.sizes, epochs)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def weaker(self) -> AugmentSettings:
        """The settings for networks that are smaller than `weaker_below`."""
        return self.model_copy(update={"policy": "published", "erasing": 0.0, "mixup": 0.0, "cutmix": 0.0})


class TeacherSettings(Section):
    """YAML section `retrain.teacher`: a trained network, whose outputs the network learns too (arXiv 1503.02531)."""

    network: str = Field(min_length=1)
    """A published network's name, a checkpoint's .pt file or the folder of a run; `torchvision:NAME` or `timm:NAME` for
    a model of these packages with its default weights. Of a search it is the largest network of the space. Its classes
    must be those of the data."""
    weight: float = Field(0.5, gt=0, le=1)
    """The share of the teacher's part in the loss; the labels have the rest."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Both outputs are divided by it before the softmax, and the teacher's part is multiplied by its square."""


Optimizer = Literal["sgd", "adamw", "rmsprop"]
_LR: dict[Optimizer, float] = {"sgd": 0.05, "adamw": 2.5e-4, "rmsprop": 0.016}
_DECAY: dict[Optimizer, float] = {"sgd": 4e-5, "adamw": 0.05, "rmsprop": 1e-5}


class RetrainSettings(Section):
    """YAML section `retrain`. Defaults are the published settings."""

    epochs: int = Field(300, ge=1, le=MOST_EPOCHS)
    """Passes over all training images."""
    batch_size: int = Field(256, ge=2, le=LARGEST_BATCH)
    """Images in a step, of all processes together."""
    accumulate: int = Field(1, ge=1, le=LARGEST_BATCH)
    """The parts into which each process divides its share of a batch, one after the other; a step needs the memory of
    one part. BN normalises each part by its own statistics."""
    optimizer: Optimizer = "sgd"
    """sgd: with Nesterov's momentum. adamw: betas (0.9, 0.999). rmsprop: alpha 0.9, eps 0.0316, as torchvision trains
    MobileNetV3."""
    lr: float | None = Field(None, gt=0, le=LARGEST_LR, validate_default=True)
    """The learning rate at the start of the cosine, for a batch of 256; it is scaled linearly with batch_size. null:
    0.05 (sgd), 0.00025 (adamw), 0.016 (rmsprop)."""
    warmup_epochs: float = Field(0.0, ge=0, le=MOST_EPOCHS)
    """Epochs of `epochs` in which the learning rate rises linearly, before the cosine."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """The momentum of sgd, by Nesterov, and of rmsprop; 0 turns it off."""
    weight_decay: float | None = Field(None, ge=0, le=LARGEST_LR)
    """BN and biases have none. null: 4e-5 (sgd), 0.05 (adamw), 1e-5 (rmsprop)."""
    clip: float | None = Field(None, gt=0, le=1e6)
    """The largest norm of the gradient of all weights together; a larger one is scaled to it. null: no bound."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """The share of a label that is spread evenly over all classes, in the training loss."""
    ema: float | None = Field(None, gt=0, lt=1)
    """The decay per step of an exponential moving average of weights and BN statistics, for a batch of 256. It is
    raised to the power batch_size / 256 (arXiv 2307.13813), and smaller in the first steps. The averaged network is
    then the result; the other one is evaluated beside it. null: none."""
    augment: AugmentSettings = AugmentSettings()
    """How training images are changed."""
    teacher: TeacherSettings | None = None
    """A trained network to learn from. null: none."""
    compile: bool = False
    """Run each layer but the classifier through torch.compile: fewer passes over memory between convolutions. It costs
    minutes at the start, at each size of images, and needs Triton for a GPU, a C++ compiler (g++) for a CPU. Results
    equal those without it up to rounding; a resumed training still equals an uninterrupted one bit for bit on a
    CPU."""
    cuda_graphs: bool = False
    """GPU alone, one process: record the forward and backward pass as a CUDA graph, so that the GPU does not wait for
    the program to send each op. For small networks and images, whose ops take less time than sending them."""
    start: str | None = Field(None, min_length=1)
    """The weights that the training begins with: a published network's name, a checkpoint's .pt file or the folder of a
    retraining. If the data have other classes, the classifier is replaced. null: fresh weights."""
    inherit: UserPath | None = None
    """A checkpoint of the search, whose weights the training begins with. null: it begins with fresh weights."""
    validation: float | int | None = None
    """Training images held out to choose an epoch by, class by class: a share in (0, 1) or a count. The result is the
    network of the epoch that is best on them. null: all images train, and the last epoch is the result, unless the
    data have images of their own to choose an epoch by (val/ beside train/ and test/)."""

    @field_validator("validation")
    @classmethod
    def validation_is_a_share_or_a_count(cls, validation: float | int | None) -> float | int | None:
        if validation is None:
            return None
        if not (1 <= validation <= MOST_IMAGES if isinstance(validation, int) else 0 < validation < 1):
            accepted = "a share strictly between 0 and 1 (0.1) or a whole number of images >= 1"
            raise InvalidError("", f"got {validation}", accepted, "choose one of the two")
        return validation

    @field_validator("warmup_epochs")
    @classmethod
    def warmup_ends_before_the_training(cls, warmup: float, info: ValidationInfo) -> float:
        epochs = info.data.get("epochs")
        if epochs is not None and warmup > 0 and warmup >= epochs:
            raise InvalidError("", f"got {warmup:g}", f"fewer than retrain.epochs ({epochs})", "change one of the two")
        return warmup

    @field_validator("inherit")
    @classmethod
    def weights_come_from_one_place(cls, inherit: Any, info: ValidationInfo) -> Any:
        if inherit is not None and info.data.get("start") is not None:
            raise InvalidError("", "got a file beside retrain.start", remedy="give one of the two")
        return inherit

    @property
    def resolved_lr(self) -> float:
        """`lr`, or the optimizer's default if it is not set."""
        return _LR[self.optimizer] if self.lr is None else self.lr

    @property
    def resolved_weight_decay(self) -> float:
        """`weight_decay`, or the optimizer's default if it is not set."""
        return _DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay


class RetrainConfig(ConfigFile):
    """A file of configs/retrain/."""

    data: DataConfig
    """The images."""
    retrain: RetrainSettings = RetrainSettings()
    """The settings of the training."""
    run: RunConfig = RunConfig()
    """Where the program runs, and how often it reports."""
