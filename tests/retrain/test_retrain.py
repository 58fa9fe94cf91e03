"""Retraining: all images, fresh weights, a resume that equals an uninterrupted run, and the accuracy it reports."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.config import validate
from engine.data import Batch, Item, open_images
from engine.data.images import RawBatch
from engine.data.memory import MemoryImages
from engine.errors import CheckpointError, ConfigError, Interrupted, UserError
from engine.evaluation import ClassCounts
from engine.runs.checkpoints import Checkpoints
from engine.runs.lock import locked
from retrain import evaluation, loop
from retrain.config import RetrainConfig
from retrain.evaluation import evaluate_checkpoint
from retrain.run import retrain, run_retrain
from supernet.architecture import Architecture
from supernet.network import Network
from tests.engine.image_folder import write_images
from tests.processes import python

STEPS = 8  # 2 epochs of 32 images in batches of 8


@pytest.fixture(scope="module")
def searched(tmp_path_factory, door, tiny_search, space_of, formula_table, write_yaml) -> Path:
    """The folder of a finished search; dropout makes each step draw random numbers."""
    folder = tmp_path_factory.mktemp("searched")
    config = tiny_search | {"space": tiny_search["space"] | {"dropout": 0.2}}
    config["search"] = tiny_search["search"] | {"regression": {"final_steps": 5}}
    config["limits"] = [{"metric": "latency", "table": str(folder / "table.yaml"), "at": "50%"}]
    formula_table(space_of(config["space"])).save(folder / "table.yaml")
    ended = door("run_search", write_yaml(folder / "search.yaml", config), "--out", folder / "run")
    assert ended.status == 0, ended.err
    return folder / "run"


@pytest.fixture
def architecture_file(searched) -> Path:
    return searched / "architecture.json"


@pytest.fixture
def architecture(architecture_file) -> Architecture:
    return Architecture.from_json(architecture_file.read_text())


def settings(**sections: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a retrain YAML, with some keys of its sections replaced."""
    values: dict[str, Any] = {
        "data": {"name": "fake", "fake_images": 32, "fake_classes": 2, "workers": 0},
        "retrain": {"epochs": 2, "batch_size": 8, "lr": 1.0},
        "run": {"seed": 0, "threads": 1, "log_every": 1, "checkpoint_every": 2},
    }
    return {name: section | sections.get(name, {}) for name, section in values.items()}


def config_of(**sections: dict[str, Any]) -> RetrainConfig:
    return validate(RetrainConfig, settings(**sections), "retrain.yaml")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, door, searched, write_yaml) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    path = write_yaml(folder / "retrain.yaml", settings())
    ended = door("run_retrain", path, "--architecture", searched / "architecture.json", "--out", folder / "run")
    assert ended.status == 0, ended.err
    return folder / "run"


def points(run: Path) -> list[dict[str, Any]]:
    """Returns the lines of metrics.jsonl without the speeds, which differ between runs."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("speed/")} for line in lines]


def checkpoint(run: Path) -> tuple[int, dict[str, Any]]:
    newest = Checkpoints(run / "checkpoints").newest()
    assert newest is not None
    return newest[0], newest[1]["retrain"]


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_retraining_writes_its_result_curves_and_checkpoints(uninterrupted):
    result = json.loads((uninterrupted / "result.json").read_text())
    assert result["epochs"] == 2
    assert result["test"]["images"] == 8
    assert [point["step"] for point in points(uninterrupted) if "train/loss" in point] == list(range(1, STEPS + 1))
    evaluated = [point for point in points(uninterrupted) if "test/top1" in point]
    assert [point["step"] for point in evaluated] == [4, 8]
    assert result["test"]["top1"] == evaluated[-1]["test/top1"]  # the last epoch's, not the best one's
    assert checkpoint(uninterrupted)[0] == STEPS
    assert len(list((uninterrupted / "checkpoints").glob("*.pt"))) == 2
    assert list(uninterrupted.glob("events.out.tfevents.*"))


def test_the_last_epoch_is_reported_even_if_an_earlier_one_was_better(architecture, tmp_path, monkeypatch):
    scores = iter([90.0, 10.0])
    plain = loop.evaluate_by_class

    def scripted(*arguments: Any) -> tuple[evaluation.Evaluation, ClassCounts]:
        scored, counts = plain(*arguments)
        return evaluation.Evaluation(scored.loss, next(scores), scored.top5, scored.images), counts

    monkeypatch.setattr(loop, "evaluate_by_class", scripted)
    assert retrain(config_of(), architecture, tmp_path / "run").test.top1 == 10.0


KILLED = """
import os, signal, sys
from pathlib import Path
from retrain import loop
from retrain.run import run_retrain

fatal, config, architecture, out = int(sys.argv[1]), *map(Path, sys.argv[2:])
plain = loop.Training._train

def train(self, batch):
    if self.step == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, batch)

loop.Training._train = train
run_retrain(config, architecture, out)
"""


@pytest.mark.parametrize("fatal", [1, 5])
def test_a_killed_run_resumes_bit_for_bit(fatal, uninterrupted, architecture_file, door, shell, tmp_path, write_yaml):
    """It is killed before the first checkpoint, or a step after one in the second epoch."""
    path, out = write_yaml(tmp_path / "retrain.yaml", settings()), tmp_path / "run"
    killed = python("-c", KILLED, fatal, path, architecture_file, out, env=shell, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert points(out)[-1]["step"] == fatal
    ended = door("run_retrain", path, "--architecture", architecture_file, "--out", out, "--resume")
    assert ended.status == 0, ended.err

    (step, own), (expected_step, expected) = checkpoint(out), checkpoint(uninterrupted)
    assert step == expected_step == STEPS
    assert_equal_weights(own["net"], expected["net"])
    for i, state in expected["optimizer"]["state"].items():
        assert torch.equal(own["optimizer"]["state"][i]["momentum_buffer"], state["momentum_buffer"])
    assert points(out) == points(uninterrupted)
    assert (out / "result.json").read_text() == (uninterrupted / "result.json").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_at_any_step_and_resumed_equals_uninterrupted(
    number, uninterrupted, architecture, tmp_path, monkeypatch, caplog
):
    """Before the end of the second epoch, only the interrupts save a checkpoint."""
    config = config_of(run={"checkpoint_every": 1000, "evaluate_every": 2})
    whole, out, plain = tmp_path / "whole", tmp_path / "run", loop.Training._train
    retrain(config, architecture, whole)

    def interrupted_in(step: int) -> Callable[..., Any]:
        def train(self: Any, batch: Batch) -> Any:
            if self.step + 1 == step:
                os.kill(os.getpid(), number)
            return plain(self, batch)

        return train

    for step in (3, 6):
        monkeypatch.setattr(loop.Training, "_train", interrupted_in(step))
        with pytest.raises(Interrupted) as interruption:
            retrain(config, architecture, out, resume=step > 3)
        assert str(interruption.value) == f"interrupted; step {step} of 8 is saved"
        assert interruption.value.status == 128 + number
        assert checkpoint(out)[0] == step
    monkeypatch.setattr(loop.Training, "_train", plain)
    with caplog.at_level(logging.INFO):
        retrain(config, architecture, out, resume=True)
    assert f"{out}: resuming at step 6 of 8" in caplog.messages
    (step, own), (expected_step, expected) = checkpoint(out), checkpoint(whole)
    assert step == expected_step == STEPS
    assert_equal_weights(own["net"], expected["net"])
    for i, state in expected["optimizer"]["state"].items():
        assert torch.equal(own["optimizer"]["state"][i]["momentum_buffer"], state["momentum_buffer"])
    assert points(out) == points(whole)
    assert_equal_weights(own["net"], checkpoint(uninterrupted)[1]["net"])  # how often one saves changes nothing


def test_each_evaluation_saves_a_checkpoint(architecture, tmp_path):
    retrain(config_of(run={"checkpoint_every": 1000}), architecture, tmp_path / "run")
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [8, 4]


def test_a_folder_that_another_process_has_locked_is_refused(
    uninterrupted, architecture_file, door, tmp_path, write_yaml
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    path = write_yaml(tmp_path / "retrain.yaml", settings())
    with locked(out):
        ended = door("run_retrain", path, "--architecture", architecture_file, "--out", out, "--resume")
    assert ended.status == 2
    (line,) = (line for line in ended.err.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: --out {out}: process {os.getpid()} on ")


def test_a_resume_with_other_images_is_refused(architecture, tmp_path):
    """Both the training images and the test images have to be the same."""
    root, out = write_images(tmp_path / "images", 8), tmp_path / "run"
    values = settings(retrain={"epochs": 1}) | {"data": {"name": "folder", "root": str(root), "workers": 0}}
    config = validate(RetrainConfig, values, "retrain.yaml")
    retrain(config, architecture, out)
    for part, what in (("train", "training"), ("test", "test")):
        image = root / part / "class1" / "005.png"
        content = image.read_bytes()
        image.unlink()
        with pytest.raises(
            ConfigError, match=rf"--resume: 1 {what} image is missing \('{part}/class1/005.png'\) since"
        ):
            retrain(config, architecture, out, resume=True)
        image.write_bytes(content)
    for part in ("train", "test"):
        (root / part / "class1").rename(root / part / "klasse1")
    with pytest.raises(ConfigError, match=r"8 training images are missing \(first: .*; names of the classes changed"):
        retrain(config, architecture, out, resume=True)


@pytest.mark.parametrize("key", ["inherit", "start"])
def test_the_weights_of_the_beginning_are_not_needed_to_resume(key, architecture, searched, tmp_path, monkeypatch):
    """They are in a checkpoint before the first step is done. Until it is written, a changed file is refused."""
    first, out = tmp_path / "search.pt", tmp_path / "run"
    shutil.copy(search_checkpoint(searched), first)
    config = config_of(retrain={key: str(first)})
    plain = loop.Training._train

    def train(self: Any, batch: Batch) -> Any:
        if self.step == fatal:
            raise RuntimeError("killed")
        return plain(self, batch)

    monkeypatch.setattr(loop.Training, "_train", train)
    whole = tmp_path / "whole"
    fatal = -1
    retrain(config, architecture, whole)
    fatal = 0
    with pytest.raises(RuntimeError, match="killed"):
        retrain(config, architecture, out)
    recorded = (out / "inputs.json").read_text()
    assert Checkpoints(out / "checkpoints").steps() == [0]
    first.unlink()
    for fatal in (5, -1):  # read by `train`
        with pytest.raises(RuntimeError, match="killed") if fatal > 0 else contextlib.nullcontext():
            retrain(config, architecture, out, resume=True)
    assert_equal_weights(checkpoint(out)[1]["net"], checkpoint(whole)[1]["net"])
    assert (out / "inputs.json").read_text() == recorded


def newest_file(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*.pt"))


def test_a_checkpoint_holds_architecture_classes_preprocessing_and_accuracy(uninterrupted, architecture):
    found = torch.load(newest_file(uninterrupted), weights_only=True)
    assert found["format"] == "proxylessnas/checkpoint@1"
    assert Architecture.from_json(found["architecture"]) == architecture
    assert found["classes"] == ["class 0", "class 1"]
    assert found["preprocessing"] == {
        "input_size": 8,
        "channels": 1,
        "colours": 1,
        "resize": "bilinear with antialiasing to 8 x 8",
        "shorter_side": None,
        "mean": [0.5],
        "std": [12**-0.5],
    }
    reported = json.loads((uninterrupted / "result.json").read_text())["test"]
    assert found["test"] == {"step": STEPS} | reported
    assert found["epoch"] == 2


def test_the_preprocessing_in_a_checkpoint_gives_the_batches_of_an_evaluation(architecture, tmp_path):
    """The recipe in the checkpoint, carried out by Pillow and numpy, gives the batches of an evaluation."""
    import numpy as np
    from PIL import Image

    from retrain.data import images_for

    space = architecture.space.config.model_copy(update={"input_channels": 3})
    architecture = Architecture(type(architecture.space)(space), architecture.paths)
    root = write_images(tmp_path / "images", 2, size=20)
    data = config_of().data.model_copy(update={"name": "folder", "root": root})
    test = images_for(architecture, data).test
    recipe = test.preprocessing.record()
    assert recipe["resize"] == "bilinear with antialiasing, the shorter side to 9, then the central 8 x 8"
    picture = Image.open(test.path(0)).convert("RGB")  # 22 wide, 20 high
    assert picture.size == (22, 20)
    resized = picture.resize((int(9 * 22 / 20), 9), Image.Resampling.BILINEAR)
    left, top = round((resized.width - 8) / 2), round((resized.height - 8) / 2)
    pixels = np.asarray(resized.crop((left, top, left + 8, top + 8)), dtype=np.float64) / 255
    expected = (pixels - np.array(recipe["mean"])) / np.array(recipe["std"])
    found = test.load([Item(0, 0, 0)], augment=False).images[0].permute(1, 2, 0).double().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_retraining_is_evaluated_without_its_architecture_json(uninterrupted, door, tmp_path, write_yaml):
    path = newest_file(uninterrupted)
    reported = json.loads((uninterrupted / "result.json").read_text())["test"]
    ended = door("evaluate", write_yaml(tmp_path / "retrain.yaml", settings()), "--checkpoint", path)
    assert ended.status == 0, ended.err
    assert f"top-1 {reported['top1']:.2f} %" in ended.out


def rewritten(path: Path, folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Returns a checkpoint that `change` has changed, under a name whose hash is right."""
    step, state = int(path.name[5:14]), copy.deepcopy(torch.load(path, weights_only=True))
    change(state)
    return Checkpoints(folder).save(step, state)


def test_evaluating_a_checkpoint_without_an_architecture_names_the_option_to_give(uninterrupted, searched, tmp_path):
    with pytest.raises(
        CheckpointError, match="is of a search, whose supernet holds many networks; say which network: --"
    ):
        evaluate_checkpoint(config_of(), None, search_checkpoint(searched))
    old = rewritten(newest_file(uninterrupted), tmp_path / "old", lambda c: c.pop("architecture"))
    with pytest.raises(CheckpointError, match="does not say; say which network: --architecture"):
        evaluate_checkpoint(config_of(), None, old)


def test_a_module_named_in_a_checkpoint_is_not_imported(uninterrupted, tmp_path):
    """A checkpoint may come from somebody else, who may have written any module there."""
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    def name_it(state: dict[str, Any]) -> None:
        record = json.loads(state["architecture"])
        record["space"]["candidate_modules"] = [str(trap)]
        state["architecture"] = json.dumps(record)

    forged = rewritten(newest_file(uninterrupted), tmp_path / "forged", name_it)
    with pytest.raises(CheckpointError, match=r"its architecture: space\.candidate_modules: "):
        evaluate_checkpoint(config_of(), None, forged)
    assert not (tmp_path / "ran").exists()


def test_an_evaluation_on_other_classes_is_refused(uninterrupted, architecture_file, tmp_path):
    other = rewritten(newest_file(uninterrupted), tmp_path / "other", lambda c: c.update(classes=["cat", "class 1"]))
    with pytest.raises(ConfigError, match=r"data\.name: other classes than .* on: class 0: 'cat' -> 'class 0'"):
        evaluate_checkpoint(config_of(), architecture_file, other)


def test_the_error_about_another_supernets_checkpoint_names_that_supernet(searched, architecture, tmp_path):
    space = architecture.space.config.model_copy(update={"activation": "relu"})  # its weights have the same shapes
    other = Architecture(type(architecture.space)(space), architecture.paths, "mine")
    (tmp_path / "other.json").write_text(other.to_json())
    says = (
        r"is of a supernet of 3 .*, not of a supernet that holds the network 'mine' .*: space.activation: 'relu6' -> '"
    )
    with pytest.raises(CheckpointError, match=says):
        evaluate_checkpoint(config_of(), tmp_path / "other.json", search_checkpoint(searched))


def test_a_checkpoint_of_an_earlier_version_without_a_description_loads(uninterrupted, architecture_file, tmp_path):
    """It can be evaluated and resumed."""
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "checkpoints")
    later = ("format", "network", "layers", "activation", "architecture", "classes", "preprocessing", "epoch", "test")
    old = rewritten(newest_file(uninterrupted), out / "checkpoints", lambda c: [c.pop(key) for key in later])
    assert evaluate_checkpoint(config_of(), architecture_file, old)[1].images == 8
    architecture = Architecture.from_json(architecture_file.read_text())
    assert retrain(config_of(), architecture, out, resume=True).test.images == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["retrain"].update(step=7), "its name says step 8, its state is of step 7"),
        (lambda c: c["retrain"].update(step=-8), "step"),
        (lambda c: c["retrain"].update(step=8.0), "step"),
        (lambda c: c.update(corrupt=[32]), "corrupt file 32 is not an index of a set of 32 images"),
        (lambda c: c.update(corrupt="1"), "corrupt"),
        (lambda c: c["retrain"]["net"].update({"stem.conv.weight": torch.zeros(1)}), "stem.conv.weight has shape"),
        (lambda c: c["retrain"]["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(1)), "momentum_buffer"),
        (lambda c: c["retrain"].update(statistics=[torch.zeros(1)]), "BN statistics has shape"),
        (lambda c: c["test"].update(top1="good"), "test.top1"),
        (lambda c: c.pop("retrain"), "has no 'retrain'"),
        (lambda c: c["layers"].pop(), r"is of the network 'run' \(.*\), not of the network 'run' .*: layers: "),
    ],
)  # fmt: skip
def test_a_forged_or_foreign_checkpoint_is_refused_in_one_line(uninterrupted, architecture, tmp_path, change, says):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "checkpoints")
    rewritten(newest_file(uninterrupted), out / "checkpoints", change)
    with pytest.raises(CheckpointError, match=says) as error:
        retrain(config_of(), architecture, out, resume=True)
    assert str(error.value).startswith(f"{out / 'checkpoints'}, step 8: ")


def test_a_checkpoint_whose_state_is_no_mapping_counts_as_damaged(uninterrupted, architecture, tmp_path, caplog):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "checkpoints")
    rewritten(newest_file(uninterrupted), out / "checkpoints", lambda c: c.update(retrain=[1]))
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged; start again in a new folder"):
        retrain(config_of(), architecture, out, resume=True)
    assert "retrain: holds something else than a state" in caplog.text


def test_weights_ruined_by_the_update_before_a_checkpoint_are_not_saved(architecture, tmp_path, monkeypatch):
    """The loss of the step, which was computed before its update, is still finite."""
    plain = loop.Training._train

    def train(self: Any, batch: Batch) -> Any:
        found = plain(self, batch)
        if self.step == 5:
            with torch.no_grad():
                self.learned.network.stem.bn.running_var[0] = float("inf")
        return found

    monkeypatch.setattr(loop.Training, "_train", train)
    with pytest.raises(UserError, match=r"^retrain.net.stem.bn.running_var is not finite at step 6.*of step 4 is good"):
        retrain(config_of(), architecture, tmp_path / "run")
    assert checkpoint(tmp_path / "run")[0] == 4


def test_a_finished_run_resumed_reports_the_same(uninterrupted, architecture_file, tmp_path, write_yaml):
    shutil.copytree(uninterrupted, tmp_path / "run")
    path = write_yaml(tmp_path / "retrain.yaml", settings())
    result = run_retrain(path, architecture_file, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "result.json").read_text() == (uninterrupted / "result.json").read_text()
    assert points(tmp_path / "run") == points(uninterrupted)
    assert_equal_weights(result.network.state_dict(), checkpoint(uninterrupted)[1]["net"])


def files_of(run: Path) -> dict[str, str]:
    """Returns the text files that a run writes, without speeds; checkpoints have the hash of their content in their
    names."""
    texts = {name: (run / name).read_text() for name in ("config.yaml", "inputs.json", "result.json")}
    return texts | {"points": str(points(run)), "checkpoints": str(sorted(p.name for p in run.glob("checkpoints/*")))}


@pytest.mark.parametrize("given", ["paths as text", "a dictionary", "a model"])
def test_objects_and_paths_give_the_same_run(
    given, uninterrupted, architecture, architecture_file, tmp_path, write_yaml
):
    path, out = write_yaml(tmp_path / "retrain.yaml", settings(retrain={"epochs": 3})), tmp_path / "run"
    shorter = ["retrain.epochs=2"]
    if given == "paths as text":
        run_retrain(str(path), str(architecture_file), str(out), overrides=shorter)
    elif given == "a dictionary":
        run_retrain(settings(retrain={"epochs": 3}), architecture, out, overrides=shorter)
    else:
        run_retrain(RetrainConfig(**settings()), architecture, out)
    assert files_of(out) == files_of(uninterrupted)


def test_an_evaluation_takes_objects_or_paths(uninterrupted, architecture, architecture_file, tmp_path, write_yaml):
    path, checkpoint_path = write_yaml(tmp_path / "retrain.yaml", settings()), newest_file(uninterrupted)
    _, scored = evaluate_checkpoint(config_of(), architecture, checkpoint_path)
    for config in (path, str(path), settings()):
        assert evaluate_checkpoint(config, str(architecture_file), str(checkpoint_path)) == (architecture, scored)
    fewer = evaluate_checkpoint(path, None, checkpoint_path, overrides=["data.fake_images=16"])
    assert fewer[1].images == 4


def test_an_error_names_the_file_of_a_config_and_no_file_of_a_dictionary(architecture, tmp_path, write_yaml):
    wrong = settings(data={"fake_classes": 3})
    path = write_yaml(tmp_path / "retrain.yaml", settings(retrain={"batch_size": 64}))
    with pytest.raises(ConfigError) as error:
        run_retrain(path, architecture, tmp_path / "run")
    assert str(error.value).startswith(f"{path}: retrain.batch_size: got 64")
    with pytest.raises(ConfigError) as error:
        run_retrain(settings(retrain={"batch_size": 64}), architecture, tmp_path / "run")
    assert str(error.value).startswith("retrain.batch_size: got 64")
    (tmp_path / "architecture.json").write_text(architecture.to_json())
    with pytest.raises(ConfigError) as error:
        run_retrain(wrong, tmp_path / "architecture.json", tmp_path / "run")
    assert str(error.value).startswith(f"{tmp_path / 'architecture.json'}: space.classes: ")


def test_a_resume_with_another_architecture_is_refused(uninterrupted, architecture, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    other = Architecture(architecture.space, tuple((p + 1) % 2 for p in architecture.paths), architecture.name)
    with pytest.raises(ConfigError, match=r"architecture\.paths"):
        retrain(config_of(), other, tmp_path / "run", resume=True)


@pytest.fixture
def prepared(monkeypatch) -> Iterator[Callable[..., Any]]:
    """prepared(config, architecture, out): the training before its first step."""
    opened = []
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "run", lambda self: self)

        def start(config: RetrainConfig, architecture: Architecture, out: Path) -> Any:
            opened.append(retrain(config, architecture, out))
            return opened[-1]

        yield start
    for job in opened:
        job.stream.close()
        job.metrics.close()


def test_all_training_images_are_used(architecture, tmp_path, prepared, monkeypatch):
    """`data.validation` holds images out in a search; a retraining ignores it."""
    lengths = []
    plain = loop.BatchStream

    def recorded(images: Any, **arguments: Any) -> Any:
        lengths.append(len(images))
        return plain(images, **arguments)

    monkeypatch.setattr(loop, "BatchStream", recorded)
    for i, validation in enumerate((0.5, 0.25)):
        config = config_of(data={"validation": validation})
        job = prepared(config, architecture, tmp_path / str(i))
        assert job.steps == 2 * (32 // 8)
    s = architecture.space.config
    whole = open_images(config.data, input_size=s.input_size, channels=s.input_channels, classes=s.classes).train
    assert lengths == [len(whole)] * 2 == [32] * 2


def test_an_epoch_shows_every_image_once(architecture, tmp_path, prepared, monkeypatch):
    seen = []
    plain = MemoryImages.read

    def recorded(self: MemoryImages, items: Sequence[Item], *, augment: bool) -> RawBatch:
        seen.extend(item.index for item in items)
        assert augment
        return plain(self, items, augment=augment)

    monkeypatch.setattr(MemoryImages, "read", recorded)
    job = prepared(config_of(), architecture, tmp_path / "run")
    for _ in range(4):
        next(job.stream)
    assert sorted(seen) == list(range(32))


def test_the_seed_determines_the_initial_weights(architecture, tmp_path, prepared):
    first, again, other = (
        prepared(config_of(run={"seed": seed}), architecture, tmp_path / f"{i}").learned.network.state_dict()
        for i, seed in enumerate((0, 0, 1))
    )
    assert_equal_weights(first, again)
    weights = [name for name, value in first.items() if value.ndim > 1]
    assert weights
    assert not any(torch.equal(first[name], other[name]) for name in weights)


def in_supernet(name: str, architecture: Architecture) -> str:
    """Returns a weight's name in the supernet: edges.3.op.x is edges.3.ops.<path>.x there."""
    parts = name.split(".")
    if parts[0] != "edges":
        return name
    edge = architecture.space.edges[int(parts[1])]
    path = edge.candidates.index(architecture.names[int(parts[1])])
    return ".".join(["edges", parts[1], "ops", str(path), *parts[3:]])


def search_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step-*.pt"))


def test_fresh_weights_are_not_those_of_the_search(architecture, searched, tmp_path, prepared):
    state = torch.load(search_checkpoint(searched), weights_only=True)["search"]["net"]
    network = prepared(config_of(), architecture, tmp_path / "run").learned.network
    for name, value in network.named_parameters():
        assert value.ndim == 1 or not torch.equal(value, state[in_supernet(name, architecture)])


def test_inherit_begins_with_the_weights_of_the_supernet(architecture, searched, tmp_path, prepared):
    path = search_checkpoint(searched)
    state = torch.load(path, weights_only=True)["search"]["net"]
    network = prepared(config_of(retrain={"inherit": str(path)}), architecture, tmp_path / "run").learned.network
    for name, value in network.named_parameters():
        assert torch.equal(value, state[in_supernet(name, architecture)]), name


def test_inherit_from_a_retraining_begins_with_its_weights(architecture, uninterrupted, tmp_path, prepared):
    path = max((uninterrupted / "checkpoints").glob("step-*.pt"))
    network = prepared(config_of(retrain={"inherit": str(path)}), architecture, tmp_path / "run").learned.network
    assert_equal_weights(network.state_dict(), checkpoint(uninterrupted)[1]["net"])


def test_a_retraining_evaluates_to_what_it_reported(uninterrupted, architecture_file, door, tmp_path, write_yaml):
    reported = json.loads((uninterrupted / "result.json").read_text())["test"]
    path = max((uninterrupted / "checkpoints").glob("step-*.pt"))
    _, scored = evaluate_checkpoint(config_of(), architecture_file, path)
    assert (scored.top1, scored.top5, scored.loss, scored.images) == tuple(
        reported[key] for key in ("top1", "top5", "loss", "images")
    )
    config = write_yaml(tmp_path / "retrain.yaml", settings())
    ended = door("evaluate", config, "--architecture", architecture_file, "--checkpoint", path)
    assert f"top-1 {reported['top1']:.2f} %" in ended.out


def test_a_search_is_evaluated_with_statistics_of_training_images(searched, architecture_file, monkeypatch):
    """A supernet keeps none, so they are collected over whole training batches; the weights do not change."""
    seen: list[nn.Module] = []
    plain = evaluation.evaluate

    def recorded(network: nn.Module, *arguments: Any) -> evaluation.Evaluation:
        seen.append(network)
        return plain(network, *arguments)

    monkeypatch.setattr(evaluation, "evaluate", recorded)
    scores = [evaluate_checkpoint(config_of(), architecture_file, search_checkpoint(searched))[1] for _ in range(2)]
    assert scores[0] == scores[1]
    assert scores[0].images == 8
    norms = [m for m in seen[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.num_batches_tracked == 4 for m in norms)  # all 32 training images
    assert all(m.running_mean.abs().sum() > 0 for m in norms)


def test_a_checkpoint_of_another_architecture_is_refused(uninterrupted, architecture, tmp_path):
    other = architecture.space.config.model_copy(update={"feature_mix": 24})
    path = tmp_path / "other.json"
    path.write_text(Architecture(type(architecture.space)(other), architecture.paths).to_json())
    checkpoint_path = max((uninterrupted / "checkpoints").glob("step-*.pt"))
    with pytest.raises(CheckpointError, match=r"is of the network 'run' .*, not of the network 'unnamed' .*layers.4"):
        evaluate_checkpoint(config_of(), path, checkpoint_path)


def test_weight_decay_spares_bn_and_biases(architecture, tmp_path, prepared):
    job = prepared(config_of(retrain={"weight_decay": 0.25}), architecture, tmp_path / "run")
    decay = {id(p): group["weight_decay"] for group in job.learned.optimizer.param_groups for p in group["params"]}
    seen = set()
    for module in job.learned.network.modules():
        for name, p in module.named_parameters(recurse=False):
            spared = isinstance(module, nn.BatchNorm2d) or name == "bias"
            assert decay.pop(id(p)) == (0.0 if spared else 0.25)
            seen.add(spared)
    assert not decay
    assert seen == {True, False}


def test_the_learning_rate_is_scaled_by_the_batch_and_ends_at_zero(uninterrupted):
    rates = [point["lr/weights"] for point in points(uninterrupted) if "lr/weights" in point]
    assert rates[0] == pytest.approx(1.0 * 8 / 256)
    assert rates == sorted(rates, reverse=True)
    assert rates[STEPS // 2] == pytest.approx(rates[0] / 2)
    assert 0 < rates[-1] < 0.05 * rates[0]


def test_two_epochs_on_digits_are_better_than_guessing(space_of, tmp_path):
    """The network learns real images for two epochs; guessing would give 10 %."""
    stages = [{"width": 16, "depth": 2, "stride": 2, "candidates": ["mbconv_k3_e3"]}]
    space = space_of(
        {"input_size": 8, "input_channels": 1, "classes": 10, "stem": {"stride": 1, "width": 16}, "stages": stages,
         "feature_mix": 64}
    )  # fmt: skip
    config = {"data": {"name": "digits"}, "retrain": {"epochs": 2, "batch_size": 32, "lr": 0.4}, "run": {"threads": 1}}
    result = retrain(validate(RetrainConfig, config, "digits.yaml"), Architecture(space, ()), tmp_path / "run")
    assert result.test.images == 359
    assert result.test.top1 > 50
    assert isinstance(result.network, Network)
