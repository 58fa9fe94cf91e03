"""The lines of the published project's pages run as they stand, each program in a process of its own.

A server on the loopback interface stands for GitHub and for the mirror of the checkpoints. It serves the files of this
checkout as GitHub zips them, and checkpoints in the official format, with random weights. Their git blob ids cannot be
the published ones: a sitecustomize.py in those processes puts theirs into the list of published networks, and sends
requests for GitHub to the server. Everything else is the product's own: request, check of the id, strict loading.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch

from proxyless_nas.commands import main
from published import networks
from published.download import SOURCE
from published.networks import NAMED, class_names, named
from published.preprocessing import preprocessing_of
from published.state_names import official_state
from retrain.evaluation import score_files
from retrain.predict import classify
from supernet import Chain, Network
from tests.engine.image_folder import write_images

FOUR = ("proxyless_cpu", "proxyless_gpu", "proxyless_mobile", "proxyless_mobile_14")
REPOSITORY = "somebody/ProxylessNAS"

SITE = '''
"""Sends requests for GitHub to a server on the loopback interface, and takes its checkpoints for the published ones."""
import dataclasses
import importlib.abc
import importlib.util
import json
import os
import sys
import urllib.request

SERVER, IDS, SMALL = json.loads(os.environ["LOOPBACK"])
plain = urllib.request.OpenerDirector.open

def redirected(self, request, *arguments, **options):
    if isinstance(request, str):
        request = urllib.request.Request(request)
    if request.host in ("github.com", "api.github.com"):
        request.full_url = f"{SERVER}/{request.host}{request.selector}"
    return plain(self, request, *arguments, **options)

urllib.request.OpenerDirector.open = redirected

class Published(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != "published.networks":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def loaded(module):
            load(module)
            from supernet.chain import Chain

            changed = {name: dataclasses.replace(module.NAMED[name], blob_id=blob_id) for name, blob_id in IDS.items()}
            for name, text in SMALL.items():
                changed[name] = dataclasses.replace(changed[name], chain=lambda: Chain.from_json(text))
            module.NAMED = {**module.NAMED, **changed}

        spec.loader.exec_module = loaded
        return spec

sys.meta_path.insert(0, Published())
'''


class Server(http.server.ThreadingHTTPServer):
    """Serves contents by their paths, and counts the requests for each."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked.append(path)
        content = self.server.contents.get(path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_: object) -> None: ...


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def official(network: Network) -> bytes:
    """Returns a checkpoint in the official format."""
    buffer = io.BytesIO()
    torch.save({"state_dict": official_state(network)}, buffer)
    return buffer.getvalue()


def zipped(checkout: Path) -> bytes:
    """Returns the checkout's files as GitHub zips a branch: in one folder, and a link as a file of its own kind."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, text=True, check=False)
    names = [name for name in listed.stdout.split("\0") if name and os.path.lexists(checkout / name)]
    if not names:
        pytest.skip("the checkout is no git repository")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        top = "somebody-ProxylessNAS-0123abc/"
        archive.writestr(top, b"")
        for name in names:
            if (checkout / name).is_symlink():
                entry = zipfile.ZipInfo(top + name)
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                archive.writestr(entry, os.readlink(checkout / name))
            else:
                archive.write(checkout / name, top + name)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sources() -> dict[str, Network]:
    """The networks whose weights the server has."""
    return {name: Network(named(name), seed=i).eval() for i, name in enumerate(FOUR)}


@pytest.fixture(scope="module")
def server(sources: dict[str, Network]) -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name, network in sources.items():
            running.contents[f"/weights/{name}.pth"] = official(network)
        yield running
        running.shutdown()


@pytest.fixture
def python(server: Server, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python with a cache of its own and the server in place of GitHub and of the official files."""

    def run(
        *words: object, path: Path | None = None, small: dict[str, str] | None = None, says: str = ""
    ) -> subprocess.CompletedProcess[str]:
        site = tmp_path / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SITE)
        files = {name: server.contents[f"/weights/{name}.pth"] for name in FOUR}
        ids = {name: blob_id(content) for name, content in files.items()}
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | {
            "PYTHONPATH": os.pathsep.join(map(str, [site] + ([] if path is None else [path]))),
            "LOOPBACK": json.dumps([server.url, ids, small or {}]),
            "TORCH_HOME": str(tmp_path / "torch"),
            SOURCE: f"{server.url}/weights",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, cwd=tmp_path, env=env, input=says, capture_output=True, text=True, check=False, timeout=240
        )

    return run


FROM_GITHUB = f"""
import torch
model = torch.hub.load('{REPOSITORY}', 'proxyless_cpu', pretrained=True)
model.eval()
"""
SAMPLE_EXECUTION = """
from PIL import Image
from torchvision import transforms
input_image = Image.open(filename)
preprocess = transforms.Compose([
    transforms.Resize(256),
    transforms.CenterCrop(224),
    transforms.ToTensor(),
    transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
])
input_tensor = preprocess(input_image)
input_batch = input_tensor.unsqueeze(0)
with torch.no_grad():
    output = model(input_batch)
print(output[0])
print(torch.nn.functional.softmax(output[0], dim=0))
"""


def test_torch_hub_loads_from_github_and_runs_the_sample(
    server: Server, python, sources, photographs, checkout: Path, tmp_path: Path
) -> None:
    branch = json.dumps([{"name": "main", "commit": {"sha": "0123abc"}}]).encode()
    server.contents |= {
        f"/github.com/{REPOSITORY}/tree/main/": b"",
        f"/api.github.com/repos/{REPOSITORY}/branches": branch,
        f"/github.com/{REPOSITORY}/zipball/main": zipped(checkout),
    }
    photo = photographs["china"]
    check = """
import sys
print(sys.modules["published.networks"].__file__)
torch.save(output[0], "output.pt")
"""
    lines = f"filename = {str(photo)!r}\n{FROM_GITHUB}{SAMPLE_EXECUTION}{check}"
    ended = python("-c", lines, says="y\n")  # torch.hub asks whether the repository is trusted
    assert ended.returncode == 0, ended.stderr
    hub = tmp_path / "torch" / "hub"
    assert Path(ended.stdout.splitlines()[-1]).is_relative_to(hub / "somebody_ProxylessNAS_main")
    assert (hub / "checkpoints" / "proxyless_cpu.pth").read_bytes() == server.contents["/weights/proxyless_cpu.pth"]
    with torch.no_grad():
        expected = sources["proxyless_cpu"](preprocessing_of("proxyless_cpu", 224).input_of(photo))[0]
    torch.testing.assert_close(torch.load(tmp_path / "output.pt"), expected, rtol=1e-4, atol=1e-4)


LOCAL = """
import sys, torch
net = torch.hub.load(sys.argv[1], "proxyless_cpu", source="local", pretrained=True)
assert sum(p.numel() for p in net.parameters()) == 4361648
net.eval()
assert net(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
for needless in ("torchvision", "scipy", "matplotlib", "sklearn", "search", "latency", "retrain"):
    assert needless not in sys.modules, needless
"""


def test_torch_hub_loads_from_the_folder_and_imports_nothing_else(server, python, checkout: Path) -> None:
    ended = python("-c", LOCAL, checkout)
    assert ended.returncode == 0, ended.stderr


IMPORTS = """
from proxyless_nas import proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14
net = proxyless_cpu(pretrained=True)
import torch
four = proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14
torch.save([function(pretrained=True).state_dict() for function in four], "states.pt")
"""


def test_the_four_networks_are_imported_and_have_their_weights(server, python, sources, checkout, tmp_path) -> None:
    asked = len(server.asked)
    ended = python("-c", IMPORTS, path=checkout)
    assert ended.returncode == 0, ended.stderr
    assert server.asked[asked:] == [f"/weights/{name}.pth" for name in FOUR]  # each once, though cpu is built twice
    for state, network in zip(torch.load(tmp_path / "states.pt"), sources.values(), strict=True):
        own = network.state_dict()
        assert state.keys() == own.keys()
        assert all(torch.equal(value, own[name]) for name, value in state.items())


def test_eval_py_runs_as_published(server: Server, python, checkout: Path, tmp_path: Path) -> None:
    """python eval.py --path 'your path to imagenet' --arch proxyless_cpu, on 5 classes of 32 pixels in place of
    ImageNet's 50,000 pictures."""
    config = named("proxyless_cpu").config
    head = config.classifier.model_copy(update={"classes": 5})
    small = Chain(config.model_copy(update={"input_size": 32, "classifier": head}), "proxyless_cpu")
    network, whole = Network(small, seed=3), server.contents["/weights/proxyless_cpu.pth"]
    folder = write_images(tmp_path / "your path to imagenet", 4, classes=5, size=40, parts=["val"])
    server.contents["/weights/proxyless_cpu.pth"] = official(network)
    try:
        words = (checkout / "eval.py", "--path", folder, "--arch", "proxyless_cpu")
        ended = python(*words, path=checkout, small={"proxyless_cpu": small.to_json()})
    finally:
        server.contents["/weights/proxyless_cpu.pth"] = whole
    assert ended.returncode == 0, ended.stderr
    scores = score_files(network, folder, preprocessing_of("proxyless_cpu", 32), 5, workers=0).test
    assert ended.stdout.startswith(f"test set, 20 images: top-1 {scores.top1:.2f} %, loss {scores.loss:.4f}")


def test_predict_classifies_a_photograph_in_one_line(
    server: Server, sources, photographs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    """proxyless-nas predict --arch proxyless_cpu photo.jpg"""
    ids = {name: blob_id(server.contents[f"/weights/{name}.pth"]) for name in FOUR}
    changed = {name: dataclasses.replace(NAMED[name], blob_id=own) for name, own in ids.items()}
    monkeypatch.setattr(networks, "NAMED", {**NAMED, **changed})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv(SOURCE, f"{server.url}/weights")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    photo = photographs["china"]
    with pytest.raises(SystemExit) as end:
        main(["predict", "--arch", "proxyless_cpu", str(photo)])
    assert not end.value.code
    how = preprocessing_of("proxyless_cpu", 224)
    (expected,) = classify(sources["proxyless_cpu"], how, class_names("proxyless_cpu"), [photo])
    assert capsys.readouterr().out == f"{expected}\n"
