"""A SavedModel is loaded by TensorFlow alone, and computes what the network computes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.data.preprocessing import Preprocessing
from engine.errors import UserError
from engine.files import WriteError
from proxyless_nas_tensorflow import export_saved_model, keras_model, libraries
from proxyless_nas_tensorflow.saved_model import EXTRA_FILE
from published.networks import mobile_chain
from supernet.chain import Chain
from supernet.network import Network
from tests.proxyless_nas_tensorflow.conftest import images_for

pytestmark = pytest.mark.usefixtures("needs_tensorflow")
CLASSES = ("cat", "dog", "Löwe")
ALONE = """
import json, sys
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
loaded = tf.saved_model.load(folder)
given = np.load(inputs)
infer, pixels = loaded.signatures["serving_default"], loaded.signatures["from_pixels"]
logits = infer(images=tf.constant(given["images"]))["logits"]
np.savez(outputs, logits=logits, of_pixels=pixels(pixels=tf.constant(given["pixels"]))["logits"])
assert "torch" not in sys.modules and "proxyless_nas_tensorflow" not in sys.modules
"""


@pytest.fixture
def network(as_if_trained) -> Network:
    chain = mobile_chain("mine", 8, ((8, 2, "k3e1"), (16, 2, "k5e3")), 16)
    head = chain.config.classifier.model_copy(update={"classes": 3})
    chain = Chain(chain.config.model_copy(update={"input_size": 16, "classifier": head}), "mine")
    network = as_if_trained(Network(chain), images_for(3, 16))
    network.class_names = CLASSES
    return network


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing.of_files(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_saved_model_is_all_that_tensorflow_needs(network, preprocessing, tmp_path):
    folder = export_saved_model(network, tmp_path / "deep" / "saved", preprocessing=preprocessing)
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    images = preprocessing.normalised(pixels)
    with torch.no_grad():
        expected = network(images).numpy()
    in_rows = {key: value.permute(0, 2, 3, 1).numpy() for key, value in (("images", images), ("pixels", pixels))}
    np.savez(tmp_path / "in.npz", **in_rows)
    command = [sys.executable, "-c", ALONE, folder, tmp_path / "in.npz", tmp_path / "out.npz"]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=tmp_path, timeout=240)
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(found["logits"], expected, atol=1e-5)
    np.testing.assert_allclose(found["of_pixels"], expected, atol=1e-5)
    record = json.loads((folder / EXTRA_FILE).read_text(encoding="utf-8"))
    assert record["classes"] == list(CLASSES)
    assert Preprocessing.model_validate_json(json.dumps(record["preprocessing"])) == preprocessing
    assert record["signatures"]["serving_default"] == [None, 16, 16, 3]
    assert [path.name for path in folder.parent.iterdir()] == ["saved"]


def test_a_folder_with_something_in_it_stays_as_it_is(network, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is there already, expected a new folder"):
        export_saved_model(network, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_does_not_fit_is_refused(network, preprocessing, tmp_path):
    with pytest.raises(UserError, match=r"^preprocessing: gives 3 x 32 x 32 numbers, expected 3 x 16 x 16"):
        export_saved_model(network, tmp_path / "a", preprocessing=preprocessing.at(32))
    with pytest.raises(UserError, match=r"^classes: got 2 names, expected 3"):
        export_saved_model(keras_model(network), tmp_path / "a", classes=["a", "b"])
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_nothing(network, tmp_path, monkeypatch):
    tf = libraries.tensorflow()

    def full(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    with pytest.raises(WriteError, match=r"cannot be written \(No space left on device\)"):
        export_saved_model(network, tmp_path / "saved")
    assert not any(tmp_path.iterdir())
