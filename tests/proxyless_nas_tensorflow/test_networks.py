"""The published commands in TensorFlow: networks by name with checkpoints from a mirror, and eval_tf.py."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import proxyless_nas_tensorflow
from engine.errors import UserError
from proxyless_nas_tensorflow import InTorch, libraries
from published import networks
from published.download import SOURCE
from published.networks import CPU, Named, mobile_chain, named
from published.state_names import official_state
from supernet.chain import Chain
from supernet.network import Network
from tests.engine.image_folder import write_images
from tests.proxyless_nas_tensorflow.conftest import images_for
from tests.published.test_download import Mirror, blob_id

NAME = "proxyless_cpu"


@pytest.fixture
def publish(monkeypatch, tmp_path) -> Iterator[Callable[[Network], None]]:
    """publish(network): a mirror on the loopback interface serves the network's weights as proxyless_cpu.pth."""
    with Mirror() as mirror:
        threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv(SOURCE, mirror.url)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

        def publish_one(network: Network) -> None:
            file = io.BytesIO()
            torch.save({"state_dict": official_state(network)}, file)
            mirror.content = file.getvalue()
            entry = Named(lambda: network.architecture, f"{NAME}.pth", blob_id(mirror.content))
            monkeypatch.setattr(networks, "NAMED", {**networks.NAMED, NAME: entry})

        yield publish_one
        mirror.shutdown()


@pytest.fixture
def printed(checkout, monkeypatch) -> Callable[..., str]:
    """printed("eval_tf.py", ...): what a program of the checkout prints when it runs in this process."""

    def run(script: str, *words: object, status: int = 0) -> str:
        out = io.StringIO()
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
            runpy.run_path(str(checkout / script), run_name="__main__")
        assert (end.value.code or 0) == status
        return out.getvalue()

    return run


def test_there_is_a_function_for_each_published_network():
    for name in (*networks.NAMED, *networks.ALIASES):
        assert name in proxyless_nas_tensorflow.__all__
        assert callable(getattr(proxyless_nas_tensorflow, name))


@pytest.mark.usefixtures("needs_tensorflow")
def test_the_published_lines_run(publish, as_if_trained):
    images = images_for(3, 224, 2)
    network = as_if_trained(Network(named(NAME), seed=5), images)
    publish(network)
    names: dict[str, object] = {}
    exec(
        "from proxyless_nas_tensorflow import proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14\n"
        "tf_net = proxyless_cpu(pretrained=True)",
        names,
    )
    with torch.no_grad():
        torch.testing.assert_close(InTorch(names["tf_net"])(images), network(images), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("needs_tensorflow")
def test_eval_tf_prints_the_counts_of_eval(publish, as_if_trained, printed, tmp_path):
    chain = mobile_chain(NAME, 40, CPU, 1432)
    head = chain.config.classifier.model_copy(update={"classes": 12})
    chain = Chain(chain.config.model_copy(update={"input_size": 32, "classifier": head}), NAME)
    publish(as_if_trained(Network(chain, seed=3), images_for(3, 32, 16)))
    pictures = write_images(tmp_path / "imagenet", 3, classes=12, size=40, parts=["val"])
    options = ("--path", pictures, "--arch", NAME, "--workers", 0, "--batch-size", 16)
    lines = [printed(script, *options).splitlines()[0] for script in ("eval.py", "eval_tf.py")]
    accuracies, losses = zip(*(line.split(", loss ") for line in lines), strict=True)
    assert accuracies[0] == accuracies[1]
    found = re.fullmatch(r"test set, 36 images: top-1 (\S+) %, top-5 (\S+) %", accuracies[0])
    assert 0 < float(found[1]) < float(found[2]) < 100
    assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1.5e-4)  # they are printed with four digits


@pytest.mark.usefixtures("needs_tensorflow")
def test_keras_on_another_library_is_refused(monkeypatch):
    monkeypatch.setattr(libraries.keras().backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match=r"^keras: computes with jax, expected tensorflow; set KERAS_BACKEND"):
        libraries.keras()


def test_without_tensorflow_one_line_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr(networks, "build", lambda *_, **__: pytest.fail("downloads before it looks for TensorFlow"))
    with pytest.raises(UserError) as error:
        proxyless_nas_tensorflow.proxyless_cpu()
    assert str(error.value) == (
        'tensorflow: the Python package tensorflow is not installed; pip install "proxylessnas[tensorflow]"'
    )


def test_eval_tf_without_tensorflow_is_one_line(printed, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    printed("eval_tf.py", "--path", tmp_path, status=2)
    assert capsys.readouterr().err == (
        'error: tensorflow: the Python package tensorflow is not installed; pip install "proxylessnas[tensorflow]"\n'
    )


def test_eval_tf_has_the_options_of_eval(printed):
    own, eval_py = (set(re.findall(r"--[a-z-]+", printed(script, "--help"))) for script in ("eval_tf.py", "eval.py"))
    assert own == eval_py >= {"--path", "--arch", "--batch-size", "--workers"}


def test_the_files_of_the_published_tensorflow_networks_are_never_opened():
    """They are pickles. No module names them but to say so."""
    folder = Path(proxyless_nas_tensorflow.__file__).parent
    text = "".join(path.read_text() for path in (*folder.glob("*.py"), *folder.parent.glob("published/*.py")))
    assert "tfinit" in text
    assert not re.search(
        r"^(import|from) pickle|\bpickle\.load|open\([^)]*tfinit|fetch\([^)]*tfinit", text, re.MULTILINE
    )
