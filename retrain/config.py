"""Defines the YAML file of a retraining: sections data, retrain and run. The space comes with the architecture."""

from __future__ import annotations

from pydantic import Field

from engine.config import ConfigFile, Section, UserPath
from engine.data import DataConfig
from engine.run_config import LARGEST_BATCH, LARGEST_LR, MOST_EPOCHS, RunConfig


class RetrainSettings(Section):
    """YAML section `retrain`. Defaults are the published settings."""

    epochs: int = Field(300, ge=1, le=MOST_EPOCHS)
    """Passes over all training images."""
    batch_size: int = Field(256, ge=2, le=LARGEST_BATCH)
    """Images in a step, of all processes together."""
    lr: float = Field(0.05, gt=0, le=LARGEST_LR)
    """The learning rate at the start of the cosine, for a batch of 256; it is scaled linearly with batch_size."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Nesterov's momentum; 0 turns it off."""
    weight_decay: float = Field(4e-5, ge=0, le=LARGEST_LR)
    """BN and biases have none."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """The share of a label that is spread evenly over all classes, in the training loss."""
    inherit: UserPath | None = None
    """A checkpoint of the search, whose weights the training begins with. null: it begins with fresh weights."""


class RetrainConfig(ConfigFile):
    """A file of configs/retrain/."""

    data: DataConfig
    """The images."""
    retrain: RetrainSettings = RetrainSettings()
    """The settings of the training."""
    run: RunConfig = RunConfig()
    """Where the program runs, and how often it reports."""
