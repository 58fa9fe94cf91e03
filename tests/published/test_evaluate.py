"""eval.py and `proxyless-nas evaluate` with published networks: by name, as architecture.json and as net.config."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.data import Preprocessing
from engine.progress import Report
from published import download, networks
from published.download import SOURCE
from published.net_config.conversion import net_config_of
from published.networks import CPU, Named, mobile_chain
from published.preprocessing import preprocessing_of
from published.state_names import official_state
from retrain.evaluation import score_files
from supernet.network import Network
from tests.engine.image_folder import write_images
from tests.processes import python

NAME = "proxyless_cpu"


def small_chain() -> object:
    """The CPU network for pictures of 32 pixels and 5 classes."""
    chain = mobile_chain(NAME, 40, CPU, 1432)
    head = chain.config.classifier.model_copy(update={"classes": 5})
    return type(chain)(chain.config.model_copy(update={"input_size": 32, "classifier": head}), NAME)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("imagenet"), 4, classes=5, size=40, parts=["val"])


@pytest.fixture
def network() -> Network:
    return Network(small_chain(), seed=3)


@pytest.fixture
def checkpoint(network, tmp_path, monkeypatch) -> Path:
    """An official checkpoint of the network on a mirror, a folder, that is published under its name."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(SOURCE, str(tmp_path))
    path = tmp_path / f"{NAME}.pth"
    torch.save({"state_dict": official_state(network)}, path)
    content = path.read_bytes()
    blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    monkeypatch.setattr(networks, "NAMED", {**networks.NAMED, NAME: Named(small_chain, path.name, blob_id)})
    return path


@pytest.fixture
def eval_py(checkout, monkeypatch) -> Callable[..., str]:
    """Runs eval.py in this process and returns what it prints."""

    def run(*words: object) -> str:
        out = io.StringIO()
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, words)])
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
            runpy.run_path(str(checkout / "eval.py"), run_name="__main__")
        assert not end.value.code
        return out.getvalue()

    return run


def figures(out: str) -> list[str]:
    """Returns the lines of an evaluation without its speed."""
    return re.sub(r"; [0-9.e+]+ images/s\n", "\n", out).splitlines()


def test_a_name_an_architecture_json_and_a_net_config_give_the_same_figures(
    checkpoint, network, pictures, eval_py, door, tmp_path
):
    by_name = figures(eval_py("--path", pictures, "--arch", NAME, "--workers", 0))
    scores = score_files(network, pictures, preprocessing_of(NAME, 32), 5, batch_size=100, workers=0)
    assert by_name[0].startswith(f"test set, 20 images: top-1 {scores.test.top1:.2f} %, loss {scores.test.loss:.4f}")
    (tmp_path / "architecture.json").write_text(network.architecture.to_json())
    options = ("--path", pictures, "--device", "cpu", "--workers", 0)
    for arguments in (
        ("--arch", NAME),
        ("--arch", NAME, "--checkpoint", checkpoint),
        ("--arch", tmp_path / "architecture.json", "--checkpoint", checkpoint),
    ):
        ended = door("evaluate", *arguments, *options)
        assert ended.status == 0, ended.err
        assert figures(ended.out) == by_name
    (tmp_path / "net.config").write_text(json.dumps(net_config_of(network.architecture)))
    arguments = ("--arch", tmp_path / "net.config", "--checkpoint", checkpoint, "--size", 32)
    ended = door("evaluate", *arguments, *options)  # a net.config has no input size
    assert figures(ended.out) == by_name, ended.err


def test_another_checkpoint_of_a_name_has_to_fit(checkpoint, pictures, door, tmp_path):
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    del state["classifier.linear.bias"]
    torch.save(state, tmp_path / "other.pth")
    ended = door("evaluate", "--arch", NAME, "--checkpoint", tmp_path / "other.pth", "--path", pictures)
    assert ended.status == 2
    assert (
        ended.err == f"error: {tmp_path / 'other.pth'}: lacks classifier.linear.bias, expected a weight for each of "
        "the network\n"
    )


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("proxyles_cpu", "error: proxyles_cpu: is neither a file nor the name of a published network (proxyless_cpu, "),
        ("none.json", "error: none.json: no such file"),
        ("folder/none", "error: folder/none: no such file"),
    ],
)
def test_a_wrong_arch_is_one_line(arch, says, pictures, door, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = door("evaluate", "--arch", arch, "--path", pictures)
    assert ended.status == 2
    assert ended.err.startswith(says)
    assert len(ended.err.splitlines()) == 1


def test_a_download_shows_its_progress(checkpoint, monkeypatch, capfd):
    def fetched(name: str, blob_id: str, *, report: Report) -> Path:
        report(f"fetch {name}, in kB", 7, 7)
        return checkpoint

    monkeypatch.setattr(download, "fetch", fetched)
    networks.build(NAME)
    assert f"fetch {NAME}.pth, in kB 7/7" in capfd.readouterr().err
    shown: list[tuple[str, int, int]] = []
    networks.build(NAME, report=lambda *progress: shown.append(progress))
    assert shown == [(f"fetch {NAME}.pth, in kB", 7, 7)]


def test_imagenet_networks_take_resize_256_and_the_centre_of_224():
    how = preprocessing_of("proxyless_gpu", 224)
    assert (how.shorter_side, how.input_size, how.interpolation) == (256, 224, "bilinear")
    assert (how.mean, how.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_photo_is_prepared_as_torchvision_does_it(tmp_path):
    """The sample execution of the published project: Resize(256), CenterCrop(224), ToTensor, Normalize."""
    from PIL import Image
    from torchvision import transforms

    path = write_images(tmp_path, 1, classes=1, size=300, parts=["val"]) / "val" / "class0" / "000.png"
    published = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected = published(Image.open(path))[None]
    torch.testing.assert_close(preprocessing_of(NAME, 224).input_of(path), expected, rtol=0, atol=2e-6)


def test_efficientnet_lite0_and_the_cifar_network_have_their_own_preprocessing():
    lite = preprocessing_of("efficientnet_lite0", 224)
    assert (lite.interpolation, lite.shorter_side, lite.mean[0] * 255) == ("bicubic", 256, pytest.approx(127))
    cifar = preprocessing_of("proxyless_cifar", 32)
    assert isinstance(cifar, Preprocessing)
    assert cifar.shorter_side is None


def test_eval_py_has_the_published_options(checkout, shell, tmp_path):
    program = checkout / "eval.py"
    options = set(re.findall(r"--[a-z-]+", python(program, "--help", cwd=tmp_path, env=shell).stdout))
    assert options - {"--help"} == {"--path", "--arch", "--batch-size", "--workers"}
    ended = python(program, "--path", tmp_path / "none", "--arch", "no_such_network", cwd=tmp_path, env=shell)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
