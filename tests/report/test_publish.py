"""A published folder gives, in a process with torch alone, what the run's network gives, and says what is known."""

from __future__ import annotations

import json
import os
import re
import resource
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import proxyless_nas as pn
from engine.data import Preprocessing
from engine.errors import CheckpointError, ConfigError, UserError
from engine.evaluation import wilson
from engine.files import WriteError, replacing_folder
from proxyless_nas.commands import main
from published.networks import mobile_chain, named
from report.entry import check_name, entry_name, preprocess_code
from report.portable import NotPortableError, code_of, instance
from supernet import Network
from supernet.chain import Chain, ChainConfig, ClassifierConfig

# Without our packages on the path, and with their names blocked
LOADER = """
import sys, torch
for name in ("proxyless_nas", "supernet", "engine", "retrain", "torchvision", "numpy"):
    sys.modules[name] = None
folder, name, images, out = sys.argv[1:]
torch.set_num_threads(1)
net = torch.hub.load(folder, name, source="local", trust_repo=True)
assert not net.training
images = torch.load(images)
torch.save([net(images).detach(), net.class_names], out)
"""


@pytest.fixture(scope="module")
def published(runs) -> Path:
    pn.publish(runs / "retrain", runs / "published", name="tiny", licence="apache-2.0")
    return runs / "published"


@pytest.fixture
def copied(runs, tmp_path) -> Path:
    """A copy of the retraining that a test may damage."""
    shutil.copytree(runs / "retrain", tmp_path / "copied")
    return tmp_path / "copied"


def loaded(folder: Path, name: str, images: torch.Tensor, tmp_path: Path) -> list[Any]:
    """Returns the logits and the class names of a network that a fresh process has loaded."""
    torch.save(images, tmp_path / "images.pt")
    words = [str(folder), name, str(tmp_path / "images.pt"), str(tmp_path / "out.pt")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-P", "-c", LOADER, *words], cwd=tmp_path, env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found: list[Any] = torch.load(tmp_path / "out.pt")
    return found


def test_torch_alone_loads_it_and_it_computes_the_same_bit_for_bit(runs, published, tmp_path):
    network = pn.pretrained(None, runs / "retrain")
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    logits, names = loaded(published, "tiny", images, tmp_path)
    with torch.no_grad():
        assert torch.equal(logits, network(images))
    assert names == network.class_names
    names = runpy.run_path(str(published / "hubconf.py"))
    assert [name for name in names if callable(names[name]) and name[0] != "_"] == ["tiny", "preprocess"]


def test_the_folder_holds_what_its_config_says(runs, published):
    import hashlib

    config = json.loads((published / "config.json").read_text())
    files = {path.name for path in published.iterdir()}
    assert files == {*config["sha256"], "config.json", "README.md"}
    assert {"hubconf.py", "architecture.json", "weights.pth"} <= files
    for file, value in config["sha256"].items():
        assert hashlib.sha256((published / file).read_bytes()).hexdigest() == value
    content = torch.load(published / "weights.pth", weights_only=True)
    network = pn.pretrained(None, runs / "retrain")
    assert all(map(torch.equal, content["state_dict"].values(), network.state_dict().values()))
    assert list(content["state_dict"]) == list(network.state_dict())
    assert Preprocessing.model_validate({**config["input"], "interpolation": "bilinear"}).input_size == 8


def test_our_own_commands_take_the_weights(runs, published, tmp_path):
    checkpoint = published / "weights.pth"
    again = pn.pretrained(None, checkpoint)
    before = pn.pretrained(None, runs / "retrain")
    assert all(map(torch.equal, again.state_dict().values(), before.state_dict().values()))
    assert pn.Architecture.from_json((published / "architecture.json").read_text()) == before.architecture


def test_the_card_says_what_the_runs_say(runs, published):
    card = (published / "README.md").read_text()
    result = json.loads((runs / "retrain" / "result.json").read_text())["test"]
    search = json.loads((runs / "search" / "result.json").read_text())
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == "apache-2.0"
    low, high = wilson(result["top1"], result["images"])
    assert f"| top-1 | {result['top1']:.2f} | {low:.2f} to {high:.2f} |" in card
    (limit,) = search["limits"]
    assert f"| latency | at {limit['at']:.4g} ms | {limit['predicted']:.4g} ms |  |" in card
    assert "by prediction: the search did not measure the network" in card
    assert "| formula |" not in card
    assert "- device: formula (cpu, fingerprint none)" in card
    table = pn.LatencyTable.load(runs / "table.yaml")
    assert table.sha256 in card
    assert f"- parameters: {search['params']:,}" in card
    assert "- training images: 32 (" in card
    for file, value in json.loads((published / "config.json").read_text())["sha256"].items():
        assert f"| {file} | `{value}` |" in card


def test_a_chosen_epoch_with_averaged_weights_is_published_and_named(runs, tmp_path):
    """The weights are those that an evaluation takes, not those of the last step."""
    settings = {
        "data": {"name": "fake", "fake_images": 64, "fake_classes": 2, "workers": 0},
        "retrain": {"epochs": 2, "batch_size": 8, "ema": 0.5, "validation": 0.25},
        "run": {"threads": 1},
    }
    pn.retrain(settings, runs / "search" / "architecture.json", tmp_path / "run")
    pn.publish(tmp_path / "run", tmp_path / "out")
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    best = torch.load(newest, weights_only=True)["retrain"]["best"]
    state = torch.load(tmp_path / "out" / "weights.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], best[name]) for name in best)
    assert "which images held out of the training images have chosen" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_not_known_is_not_invented(copied, tmp_path):
    (copied / "source.json").unlink()
    pn.publish(copied, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Limits and latency\n\nNot known: the search of this network was not given." in card
    assert "## Latency table" not in card
    assert "## Licence\n\nNot stated." in card
    assert "license" not in card.split("---\n")[1]
    assert "A search" not in card


def test_without_the_search_the_card_has_what_the_architectures_file_predicted(copied, tmp_path):
    record = json.loads((copied / "source.json").read_text())
    (copied / "source.json").write_text(json.dumps({**record, "architecture": str(tmp_path / "gone.json")}))
    pn.publish(copied, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"ms | {record['predicted'][0]['value']:.4g} ms | not known |" in card
    assert record["predicted"][0]["table_sha256"] in card


def few_trees() -> Chain:
    """The first block of the published CIFAR-10 network, those of stride 2, and its pool."""
    chain = named("proxyless_cifar")
    first, *blocks, pool = chain.config.blocks
    blocks = [block for block in blocks if block.shortcut.kind == "pool"]
    return Chain(chain.config.model_copy(update={"blocks": (first, *blocks, pool)}), "few_trees")


@pytest.mark.parametrize("chain", [few_trees(), named("efficientnet_lite0")], ids=["trees", "padding same"])
def test_plain_code_computes_what_published_networks_compute(chain):
    """Trees with shuffled channels, padding SAME; `code_of` raises if a bit differs."""
    network = Network(chain, seed=1).eval()
    made = instance(code_of(network))
    assert list(made.state_dict()) == list(network.state_dict())
    made.load_state_dict({name: value + 1e-3 for name, value in network.state_dict().items()})
    images = torch.randn(1, 3, chain.input_size, chain.input_size)
    with torch.no_grad():
        assert not torch.equal(made.eval()(images), network(images))


def test_plain_code_of_squeeze_excite_and_hswish(space_of):
    stages = [{"width": 8, "candidates": ["mbconv_k3_e3_se", "sepconv_k3", "maxpool_k3", "skip"], "depth": 3}]
    section = {"input_size": 12, "input_channels": 2, "classes": 3, "stem": {"width": 8}, "activation": "hswish"}
    space = space_of(section | {"stages": stages, "feature_mix": 16})
    for paths in ((0, 0, 1), (1, 2, 0)):
        assert "Hardswish" in code_of(Network(pn.Architecture(space, paths)))


def test_an_op_that_decides_by_values_needs_the_package(small_chain):
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    network = Network(small_chain)
    network.edges[0].op = Odd()
    with pytest.raises(NotPortableError, match="cannot be recorded"):
        code_of(network)


@pytest.fixture
def small_chain() -> Chain:
    chain = mobile_chain("a small one", 8, ((8, 1, "k3e1"), (16, 2, "k3e3 - k5e6")), 32)
    fields = dict(chain.config) | {"input_size": 8, "input_channels": 1, "classifier": ClassifierConfig(classes=10)}
    return Chain(ChainConfig.model_validate(fields), "a small one")


def test_a_chain_that_net_config_can_express_has_one_and_converts(small_chain, tmp_path):
    (tmp_path / "architecture.json").write_text(small_chain.to_json())
    settings = {
        "data": {"name": "digits", "workers": 0},
        "retrain": {"epochs": 1, "batch_size": 50},
        "run": {"threads": 1},
    }
    pn.retrain(settings, tmp_path / "architecture.json", tmp_path / "run")
    publication = pn.publish(tmp_path / "run", tmp_path / "out")
    assert publication.name == "a_small_one"
    assert "net.config" in publication.files
    out = tmp_path / "out"
    words = [str(out / "net.config"), str(tmp_path / "back.json")]
    with pytest.raises(SystemExit) as end:
        main(["convert", str(out / "architecture.json"), str(tmp_path / "net.config"), "--weights",
              str(out / "weights.pth"), str(tmp_path / "official.pth")])  # fmt: skip
    assert end.value.code == 0
    with pytest.raises(SystemExit) as end:
        main(["convert", *words, "--weights", str(tmp_path / "official.pth"), str(tmp_path / "back.pt")])
    assert end.value.code == 0
    again, before = (pn.pretrained(None, path) for path in (tmp_path / "back.pt", tmp_path / "run"))
    assert all(map(torch.equal, again.state_dict().values(), before.state_dict().values()))

    preprocess = torch.hub.load(str(out), "preprocess", source="local", trust_repo=True, picture=str(photo(tmp_path)))
    expected = pn.predict(out / "weights.pth", photo(tmp_path))
    net = torch.hub.load(str(out), "a_small_one", source="local", trust_repo=True)
    with torch.no_grad():
        probabilities = net(preprocess)[0].double().softmax(dim=0)
    assert expected.probabilities[0] == pytest.approx(float(probabilities.max()), rel=1e-5)  # other threads
    assert expected.classes[0] == net.class_names[int(probabilities.argmax())]


def photo(folder: Path, mode: str = "RGB", size: tuple[int, int] = (31, 23)) -> Path:
    path = folder / f"{mode}{size[0]}.png"
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    Image.fromarray(pixels.squeeze(), mode if mode != "P" else None).save(path)
    return path


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("size", [(31, 23), (23, 31), (32, 32), (700, 20)])
def test_preprocess_gives_what_an_evaluation_gives(mode, size, tmp_path):
    path = photo(tmp_path, mode, size)
    cases = [
        Preprocessing.of_files(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Preprocessing.of_files(24, (0.449,), (0.226,), interpolation="bicubic"),
        Preprocessing.of_squares(32, 3, (0.1307,), (0.3081,)),
        Preprocessing.of_squares(20, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
    ]
    for preprocessing in cases:
        names: dict[str, Any] = {"torch": torch, "F": nn.functional}
        exec(preprocess_code(preprocessing), names)
        assert torch.equal(names["preprocess"](path), preprocessing.input_of(path))


def test_preprocess_turns_a_photograph_upright(tmp_path):
    image = Image.open(photo(tmp_path))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    preprocessing = Preprocessing.of_files(16, (0.5,) * 3, (0.5,) * 3)
    names: dict[str, Any] = {"torch": torch, "F": nn.functional}
    exec(preprocess_code(preprocessing), names)
    turned, plain = (names["preprocess"](path) for path in (tmp_path / "turned.png", photo(tmp_path)))
    assert torch.equal(turned, preprocessing.input_of(tmp_path / "turned.png"))
    assert not torch.equal(turned, plain)


def test_a_network_without_plain_code_is_loaded_by_the_package(copied, tmp_path, monkeypatch):
    def refuse(_: object) -> str:
        raise NotPortableError("a reason")

    monkeypatch.setattr("report.publication.code_of", refuse)
    publication = pn.publish(copied, tmp_path / "out", name="net")
    assert publication.why_not_plain == "a reason"
    assert 'dependencies = ["torch", "proxyless_nas"]' in (tmp_path / "out" / "hubconf.py").read_text()
    images, network = torch.randn(2, 1, 8, 8), pn.pretrained(None, copied)
    net = torch.hub.load(str(tmp_path / "out"), "net", source="local", trust_repo=True)
    with torch.no_grad():
        assert torch.equal(net(images), network(images))
    assert "needs the package proxylessnas" in (tmp_path / "out" / "README.md").read_text()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "proxyless_nas" else object())
    with pytest.raises(RuntimeError, match=r"^Missing dependencies: proxyless_nas$"):
        torch.hub.load(str(tmp_path / "out"), "net", source="local", trust_repo=True)


def test_damaged_weights_are_named(published, tmp_path):
    shutil.copytree(published, tmp_path / "out")
    content = bytearray((tmp_path / "out" / "weights.pth").read_bytes())
    content[1000] ^= 1
    (tmp_path / "out" / "weights.pth").write_bytes(content)
    with pytest.raises(RuntimeError, match=r"weights\.pth: is not the file that was published"):
        torch.hub.load(str(tmp_path / "out"), "tiny", source="local", trust_repo=True)


@pytest.mark.parametrize("name", ["", "a b", "7up", "class", "torch", "print", "_hidden", "preprocess", "ä", "x" * 101])
def test_a_name_that_hubconf_cannot_have_is_one_line(name, copied, tmp_path):
    with pytest.raises(ConfigError, match=r"^--name: got "):
        pn.publish(copied, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()
    assert check_name(entry_name(name)) == entry_name(name)


def test_a_run_that_cannot_be_published_is_one_line(runs, copied, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"search: is of a search, .* retrain its architecture\.json"):
        pn.publish(runs / "search", out)
    with pytest.raises(ConfigError, match=r"nothing: no such folder, expected the folder of a search, of a retraining"):
        pn.publish(tmp_path / "nothing", out)
    with pytest.raises(ConfigError, match=r"has no config\.yaml"):
        pn.publish(tmp_path, out)
    with pytest.raises(ConfigError, match=r"holds a retraining, as .* does"):
        pn.publish(copied, out, search=runs / "retrain")
    result = (copied / "result.json").read_text()
    (copied / "result.json").write_text(result.replace('"top1"', '"top1": 12.5, "top_1"').replace("top_1", "top2"))
    with pytest.raises(ConfigError, match=r"result\.json: .*top2"):
        pn.publish(copied, out)
    (copied / "result.json").write_text(re.sub(r'"top1": [\d.]+', '"top1": 12.5', result))
    with pytest.raises(CheckpointError, match=r"is not the checkpoint of the last epoch, to which the 12\.50 %"):
        pn.publish(copied, out)
    (copied / "result.json").unlink()
    with pytest.raises(ConfigError, match=r"has no result\.json, so it has not ended"):
        pn.publish(copied, out)
    (copied / "result.json").write_text(result)
    (checkpoint,) = (copied / "checkpoints").iterdir()
    content = bytearray(checkpoint.read_bytes())
    content[500] ^= 255
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="all 1 checkpoints are damaged"):
        pn.publish(copied, out)
    checkpoint.unlink()
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        pn.publish(copied, out)
    assert not out.exists()


def test_another_networks_search_is_refused(runs, copied, tmp_path):
    shutil.copytree(runs / "search", tmp_path / "search")
    record = json.loads((tmp_path / "search" / "architecture.json").read_text())
    record["paths"][0] = next(name for name in ("mbconv_k3_e1", "conv_k1") if name != record["paths"][0])
    del record["complexity"]
    (tmp_path / "search" / "architecture.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="found another network than the one that"):
        pn.publish(copied, tmp_path / "out", search=tmp_path / "search")


def test_nothing_of_others_is_lost(copied, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(ConfigError, match=r"holds other files \(mine\)"):
        pn.publish(copied, out, overwrite=True)
    (out / "mine").unlink()
    pn.publish(copied, out, name="first")  # an empty folder is filled
    with pytest.raises(ConfigError, match=r"holds a publication already; .* --overwrite"):
        pn.publish(copied, out)
    (out / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds a publication and mine, which is not of it"):
        pn.publish(copied, out, overwrite=True)
    (out / "mine").unlink()
    (out / "__pycache__").mkdir()
    (out / "__pycache__" / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds a publication and __pycache__, which is not of it"):
        pn.publish(copied, out, overwrite=True)
    (out / "__pycache__" / "mine").rename(out / "__pycache__" / "hubconf.cpython-311.pyc")  # as loading it leaves one
    pn.publish(copied, out, name="second", overwrite=True)
    assert "def second(" in (out / "hubconf.py").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "out"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        pn.publish(copied, tmp_path / "file")


def test_a_full_disk_leaves_the_earlier_publication_and_nothing_else(copied, tmp_path):
    out = tmp_path / "out"
    pn.publish(copied, out, name="first")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot be written \(File too large\); raise the limit"):
            pn.publish(copied, out, name="second", overwrite=True)
        with pytest.raises(WriteError):
            pn.publish(copied, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "out"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_refused_rename_keeps_the_old_folder(failing, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    real, calls = os.rename, []

    def rename(source: object, target: object) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with (
        pytest.raises(WriteError, match="choose a place that you may write"),
        replacing_folder(tmp_path / "out") as new,
    ):
        (new / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_may_not_be_written_is_one_line(copied, tmp_path):
    with pytest.raises(WriteError, match=r"cannot be written|is a file, or lies below one"):
        pn.publish(copied, "/proc/self/published")


def test_safetensors_have_the_same_weights_and_their_absence_is_one_line(copied, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match=r"--safetensors: .* not installed; pip install 'proxylessnas\[safetensors\]'"):
        pn.publish(copied, tmp_path / "out", safetensors=True)
    monkeypatch.undo()
    load_file = pytest.importorskip("safetensors.torch", reason="needs the extra safetensors").load_file
    pn.publish(copied, tmp_path / "out", safetensors=True)
    state = load_file(tmp_path / "out" / "weights.safetensors")
    before = pn.pretrained(None, copied).state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_the_command_prints_how_to_load_it(runs, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["publish", str(runs), "--out", str(tmp_path / "out")])  # the folder of both, as a quick start has it
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f'load it with torch.hub.load("{tmp_path / "out"}", "search", source="local")' in printed
    with pytest.raises(SystemExit) as end:
        main(["publish", str(runs / "search"), "--out", str(tmp_path / "no")])
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
