"""The YAML section `run`, which every program that trains has, and the bounds of settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.config import Section

# Bounds of settings: far above what makes sense, and low enough to refuse a mistyped number before training begins.
MOST_EPOCHS = 1_000_000
LARGEST_BATCH = 1 << 20
LARGEST_LR = 100.0
"""The largest learning rate, and the largest weight decay."""
NEVER = 1_000_000_000
"""The largest number of steps or epochs between two reports: more than any run has, so that none is made."""
MOST_THREADS = 4096


class RunConfig(Section):
    """YAML section `run`: where and how a program runs, and how often it reports."""

    seed: int = Field(0, ge=0, lt=1 << 63)
    """The seed of all random draws: weights, paths, the order of the data, augmentation, the split of the images."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where networks are trained. cuda: in each process the GPU of its number on its machine."""
    threads: int | None = Field(None, ge=1, le=MOST_THREADS)
    """CPU threads inside an op; null takes torch's default. Another number can change results in the last bit."""
    log_every: int = Field(10, ge=1, le=NEVER)
    """Steps between two points of the training curves."""
    checkpoint_every: int = Field(200, ge=1, le=NEVER)
    """Steps between two checkpoints."""
    evaluate_every: int = Field(1, ge=1, le=NEVER)
    """Epochs between two evaluations."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    """bf16: automatic mixed precision, with the classifier in float32. A GPU must compute bfloat16 itself, not emulate
    it. Its exponents are those of float32, so gradients need no scaling. fp16, for retrainings on GPUs without
    bfloat16: float16, with the loss scaled so that small gradients do not become zero (arXiv 1710.03740)."""
    channels_last: bool = True
    """The memory format of images and weights; on most devices the faster one."""
