"""The recipe of a retraining: defaults, optimizers, mixed and augmented images, averaged weights, chosen epochs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from engine.config import validate
from engine.data import Batch, BatchStream, open_images
from engine.errors import ConfigError
from engine.seeding import mix
from engine.training import backward_pass
from retrain import loop
from retrain.config import AugmentSettings, RetrainConfig, RetrainSettings
from retrain.evaluation import evaluate_checkpoint
from retrain.inputs import resolved_training
from retrain.loop import DROPOUT, TRAINING_ORDER, WEIGHTS
from retrain.recipe import Averaged, Mixing, augmentation_for, hurry_statistics, lr_at, optimizer_of
from retrain.run import retrain
from retrain.weights import load_network
from supernet.architecture import Architecture
from supernet.network import Network
from supernet.space import Space, SpaceConfig

STEPS = 8  # 2 epochs of 32 images in batches of 8
SPACE = {
    "input_size": 8, "input_channels": 1, "classes": 2, "stem": {"kernel": 3, "stride": 1, "width": 8},
    "stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e1", "conv_k1", "skip"]}], "feature_mix": 16,
    "dropout": 0.2,
}  # fmt: skip


@pytest.fixture
def architecture() -> Architecture:
    return Architecture(Space(SpaceConfig.model_validate(SPACE, strict=False)), (0, 1))


def config_of(run: dict[str, Any] | None = None, **settings: Any) -> RetrainConfig:
    values: dict[str, Any] = {
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 2},
        "retrain": {"epochs": 2, "batch_size": 8, "lr": 1.0} | settings,
        "run": {"seed": 0, "threads": 1, "log_every": 1, "checkpoint_every": 2} | (run or {}),
    }
    return validate(RetrainConfig, values, "retrain.yaml")


def settings_of(**settings: Any) -> RetrainSettings:
    return config_of(**settings).retrain


def newest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(max((run / "checkpoints").glob("*.pt")), weights_only=True)
    return found


def points(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_defaults_are_the_published_training_bit_for_bit(architecture, tmp_path):
    """A plain loop of torch's SGD with Nesterov's momentum, label smoothing and half a cosine ends with the weights of
    a retraining without any of the later settings."""
    config = config_of()
    found = retrain(config, architecture, tmp_path / "run", shown=False).network.state_dict()
    network = Network(architecture, seed=mix(0, WEIGHTS)).to(memory_format=torch.channels_last)
    groups = [
        {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 4e-5},
        {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    images = open_images(config.data, input_size=8, channels=1, classes=2).train
    stream = BatchStream(images, batch_size=8, seed=mix(0, TRAINING_ORDER), workers=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_at(config.retrain, step, STEPS))
    for step in range(STEPS):
        torch.manual_seed(mix(0, DROPOUT, step, 0))
        batch = next(stream)
        logits = network(batch.images.to(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for name, value in network.state_dict().items():
        assert torch.equal(value, found[name]), name


def test_a_run_of_an_earlier_version_has_the_config_that_a_resume_expects(architecture, tmp_path):
    """config.yaml has no key that earlier versions lack, as long as it has its default."""
    retrain(config_of(), architecture, tmp_path / "run", shown=False)
    recorded = resolved_training(config_of(), architecture)["retrain"]
    assert recorded == {
        "epochs": 2, "batch_size": 8, "lr": 1.0, "momentum": 0.9, "weight_decay": 4e-5, "label_smoothing": 0.1
    }  # fmt: skip
    assert retrain(config_of(), architecture, tmp_path / "run", resume=True, shown=False).test.images == 8
    with pytest.raises(ConfigError, match=r"retrain\.clip: \(absent\) -> 1"):
        retrain(config_of(clip=1.0), architecture, tmp_path / "run", resume=True, shown=False)


@pytest.mark.parametrize(
    ("optimizer", "lr", "decay"), [("sgd", 0.05, 4e-5), ("adamw", 2.5e-4, 0.05), ("rmsprop", 0.016, 1e-5)]
)
def test_each_optimizer_has_its_defaults_and_trains(optimizer, lr, decay, architecture, tmp_path):
    settings = RetrainSettings(optimizer=optimizer)
    assert (settings.resolved_lr, settings.resolved_weight_decay) == (lr, decay)
    groups = optimizer_of(Network(architecture), settings, torch.device("cpu")).param_groups
    assert [group["weight_decay"] for group in groups] == [decay, 0.0]
    result = retrain(config_of(optimizer=optimizer, lr=lr), architecture, tmp_path / "run", shown=False)
    assert result.test.images == 8


def test_the_learning_rate_rises_to_its_height_and_falls_to_zero():
    settings = settings_of(epochs=10, warmup_epochs=2.5, batch_size=64, lr=0.4)
    rates = [lr_at(settings, step, 40) for step in range(41)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])  # 0.4 * 64 / 256 after 10 steps
    assert rates[10] == 0.1
    assert rates[25] == pytest.approx(0.05)
    assert rates[40] == pytest.approx(0, abs=1e-17)


def test_averaged_weights_are_the_sum_of_all_with_shares_that_decay(architecture):
    """e <- d e + (1 - d) w with d = min(decay^(batch/256), (1 + n) / (10 + n)), weights and BN statistics alike; the
    first weights are copied."""
    network = Network(architecture)
    averaged = Averaged(network, 0.5, batch_size=512)
    assert averaged.decay == 0.25
    expected: dict[str, Tensor] = {}
    for step in range(1, 6):
        with torch.no_grad():
            for value in network.state_dict().values():
                if value.is_floating_point():
                    value.add_(torch.randn_like(value))
        averaged.update(step)
        decay = min(0.25, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = value.double() if step == 1 else decay * expected[name] + (1 - decay) * value.double()
    for name, value in averaged.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_averaged_network_is_the_result_and_the_other_one_is_evaluated_beside_it(architecture, tmp_path):
    result = retrain(config_of(ema=0.9), architecture, tmp_path / "run", shown=False)
    kept = newest(tmp_path / "run")["retrain"]
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    for name, value in result.network.state_dict().items():
        assert torch.equal(value, kept["ema"][name])
    assert any(not torch.equal(kept["net"][name], value) for name, value in kept["ema"].items())
    path = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert torch.equal(load_network(path).network.stem.conv.weight, kept["ema"]["stem.conv.weight"])
    _, scored = evaluate_checkpoint(config_of(), None, path)
    assert (scored.loss, scored.top1) == (written["test"]["loss"], written["test"]["top1"])
    last = points(tmp_path / "run")[-1]
    assert last["test/loss"] == written["test"]["loss"]
    assert last["test_not_averaged/loss"] == written["test_not_averaged"]["loss"] != last["test/loss"]


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_are_torchvisions_under_the_seed_of_the_batch(kind):
    batch = Batch(torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
    mixing = Mixing(AugmentSettings.model_validate({kind: 0.8}), classes=3)
    state = torch.get_rng_state()
    images, labels, _ = mixing(batch, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    theirs = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[kind](alpha=0.8, num_classes=3)(batch.images, batch.labels)
    assert torch.equal(images, theirs[0])
    assert torch.equal(labels, theirs[1])
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(6))
    assert ((labels > 0).sum(dim=1) == 2).all()
    own = labels.gather(1, batch.labels[:, None])[:, 0]
    before = batch.images.roll(1, 0)
    if kind == "mixup":
        share = own.view(-1, 1, 1, 1)
        torch.testing.assert_close(images, share * batch.images + (1 - share) * before)
    else:
        kept = (images == batch.images).all(dim=1).float().mean(dim=(1, 2))
        torch.testing.assert_close(kept, own)


def test_with_mixup_and_cutmix_each_batch_has_one_of_them():
    batch = Batch(torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2]))
    mixing = Mixing(AugmentSettings(mixup=0.8, cutmix=0.8), classes=3)
    cut = [bool((mixing(batch, seed).images == batch.images).any()) for seed in range(20)]
    assert True in cut
    assert False in cut
    assert Mixing(AugmentSettings(), classes=3)(batch, 0) is batch


def test_parts_of_a_batch_give_the_gradient_of_the_whole_batch():
    """The network has no BN, so that its images do not depend on each other."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    batch = Batch(torch.randn(8, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 1, 1]))
    found = []
    for parts in (1, 4):
        net.zero_grad()
        loss, logits = backward_pass(
            net, batch, lambda _, x, y: F.cross_entropy(x, y), lambda: torch.enable_grad(), None, parts
        )
        found.append((loss, logits, net[1].weight.grad.clone()))
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(whole, divided, rtol=1e-12, atol=1e-12)


def test_a_bounded_gradient_is_scaled_to_its_bound(architecture, tmp_path, monkeypatch):
    norms = []
    plain = torch.optim.SGD.step

    def step(self: torch.optim.SGD, *arguments: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))
        return plain(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    retrain(config_of(clip=0.01), architecture, tmp_path / "run", shown=False)
    logged = [point["gradient/norm"] for point in points(tmp_path / "run") if "gradient/norm" in point]
    assert norms == pytest.approx([min(0.01, norm) for norm in logged], rel=1e-3)
    assert min(logged) > 0.01


def test_a_small_network_gets_weaker_augmentation_and_the_log_says_so(caplog):
    settings = AugmentSettings(policy="randaugment", erasing=0.2, mixup=0.2, sizes=(16,), weaker_below=100e6)
    assert augmentation_for(100_000_000, settings) is settings
    with caplog.at_level(logging.INFO):
        weaker = augmentation_for(99_000_000, settings)
    assert (weaker.policy, weaker.erasing, weaker.mixup, weaker.sizes) == ("published", 0, 0, (16,))
    assert caplog.messages == [
        "the network has 99 M multiply-accumulates, fewer than retrain.augment.weaker_below (100 M): it trains without "
        "policy randaugment, erasing 0.2, mixup 0.2"
    ]


def test_the_best_epoch_is_chosen_by_images_held_out_and_the_test_reports_it(architecture, tmp_path, monkeypatch):
    """The test images are evaluated once, at the end, with the weights of the epoch that was best before."""
    accuracies = iter([50.0, 90.0, 90.0, 10.0])
    seen: list[tuple[int, dict[str, Tensor]]] = []
    plain = loop.Training._scores

    def scores(self: Any, network: nn.Module, images: Any) -> Any:
        found, counts = plain(self, network, images)
        seen.append((len(images), {name: value.clone() for name, value in network.state_dict().items()}))
        if images is self.held_out:
            found = type(found)(found.loss, next(accuracies), found.top5, found.images)
        return found, counts

    monkeypatch.setattr(loop.Training, "_scores", scores)
    config = config_of(validation=12, epochs=4)  # 20 images train, 2 steps an epoch
    result = retrain(config, architecture, tmp_path / "run", shown=False)
    assert [count for count, _ in seen] == [12, 12, 12, 12, 8]
    for name, value in result.network.state_dict().items():
        assert torch.equal(value, seen[1][1][name])
        assert torch.equal(value, seen[4][1][name])
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["chosen"] == {"step": 4, "epoch": 2.0, "validation_top1": 90.0}
    assert written["test"]["images"] == 8
    path = max((tmp_path / "run" / "checkpoints").glob("*.pt"))
    assert torch.equal(load_network(path).network.stem.conv.weight, seen[1][1]["stem.conv.weight"])
    tags = {tag for point in points(tmp_path / "run") for tag in point}
    assert "validation/top1" in tags
    assert "test/top1" not in tags


def test_held_out_images_do_not_train(architecture, tmp_path, monkeypatch):
    parts = []
    plain = loop.BatchStream

    def recorded(images: Any, **arguments: Any) -> Any:
        parts.append(images)
        return plain(images, **arguments)

    monkeypatch.setattr(loop, "BatchStream", recorded)
    plain_run = loop.Training.run
    monkeypatch.setattr(loop.Training, "run", lambda self: parts.append(self.held_out) or plain_run(self))
    retrain(config_of(validation=8), architecture, tmp_path / "run", shown=False)
    train, held_out = parts
    whole = open_images(config_of().data, input_size=8, channels=1, classes=2).train
    found = sorted(x.numpy().tobytes() for part in (train.pixels, held_out.pixels) for x in part)
    assert found == sorted(x.numpy().tobytes() for x in whole.pixels)
    assert (len(train), len(held_out), held_out.labels.tolist().count(0)) == (24, 8, 4)


def test_result_json_has_intervals_and_the_figures_of_each_class(architecture, tmp_path):
    retrain(config_of(), architecture, tmp_path / "run", shown=False)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    low, high = result["top1_interval"]
    assert low < result["test"]["top1"] < high
    right = sum(row["images"] * row["top1"] / 100 for row in result["classes"])
    assert 100 * right / result["test"]["images"] == pytest.approx(result["test"]["top1"])
    assert [row["class"] for row in result["classes"]] == ["class 0", "class 1"]
    wrong = sum(pair["images"] for pair in result["confused"])
    assert wrong + right == pytest.approx(result["test"]["images"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"warmup_epochs": 2}, "retrain.warmup_epochs: got 2, expected fewer than retrain.epochs (2)"),
        ({"validation": 1.5}, "retrain.validation: got 1.5, expected a share strictly between 0 and 1"),
        ({"validation": 0}, "retrain.validation: got 0, expected a share strictly between 0 and 1"),
        ({"augment": {"sizes": [0]}}, "retrain.augment.sizes: got 0, expected pixels from 1 to 8192"),
        ({"augment": {"policy": "randaug"}}, "retrain.augment.policy: got 'randaug'"),
        ({"start": "a", "inherit": "b.pt"}, "retrain.inherit: got a file beside retrain.start; give one of the two"),
        ({"teacher": {}}, "retrain.teacher.network"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(settings, says):
    with pytest.raises(ConfigError) as error:
        config_of(**settings)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"accumulate": 3}, "retrain.accumulate: got 3 for the 8 images of a step that a process has"),
        ({"accumulate": 8}, "retrain.accumulate: got 8 for the 8 images of a step that a process has"),
        ({"validation": 31}, "retrain.validation: 31 leaves no training image of class"),
        ({"start": "nowhere"}, "retrain.start: there is no 'nowhere', expected a published network's name"),
        ({"teacher": {"network": "none"}}, "retrain.teacher.network: there is no 'none', expected"),
        ({"teacher": {"network": "torchvision:resnet05"}}, "torchvision has no 'resnet05'"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_before_anything_is_written(settings, says, architecture, tmp_path):
    with pytest.raises(ConfigError) as error:
        retrain(config_of(**settings), architecture, tmp_path / "run", shown=False)
    assert says in str(error.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_sizes_of_training_images_change_during_a_run(architecture, tmp_path, monkeypatch):
    seen = []
    plain = loop.Training._train

    def train(self: Any, batch: Batch) -> Any:
        seen.append(batch.images.shape[-1])
        return plain(self, batch)

    monkeypatch.setattr(loop.Training, "_train", train)
    retrain(config_of(augment={"sizes": [4, 8]}), architecture, tmp_path / "run", shown=False)
    assert seen == [4] * 4 + [8] * 4


def test_bn_statistics_of_a_short_training_forget_what_they_began_with(caplog):
    norm = nn.BatchNorm2d(1, momentum=0.01)
    with caplog.at_level(logging.INFO, "retrain"):
        hurry_statistics(norm, 108)
    assert "BN momentum 0.0817 in place of 0.01: the training has only 108 steps" in caplog.text
    for _ in range(54):  # half of them, whose batches have the mean 1
        norm(torch.tensor([0.0, 2.0]).view(2, 1, 1, 1))
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.99]))


@pytest.mark.parametrize(
    ("own", "updates", "expected"), [(0.01, 917, 0.01), (0.01, 3, 0.1), (0.1, 3, 0.1), (0.2, 3, 0.2)]
)
def test_bn_momentum_is_never_lowered_and_never_raised_above_that_of_torch(own, updates, expected):
    norm = nn.BatchNorm2d(1, momentum=own)
    hurry_statistics(norm, updates)
    assert norm.momentum == pytest.approx(expected)
