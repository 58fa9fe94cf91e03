"""Quantised models: they compute what float32 ones do to within their steps, in integers, without conversions."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import UserError
from latency.plan import TimingJob, network_job
from latency.runtimes.base import random_images, ready_to_time, timing_module
from latency.runtimes.exported import write_models
from supernet.architecture import Architecture
from supernet.catalogue import CANDIDATES
from supernet.network import Network
from supernet.space import Layer, Space

pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")

import onnx
from onnx import helper

from latency.runtimes import onnx_models
from latency.runtimes.int8_models import quantised_litert, quantised_onnx
from tests.latency.onnx_graphs import optimised_ops, output_of


def layers() -> list[Layer]:
    """Returns one op of each kind."""
    names = ["mbconv_k3_e1", "mbconv_k7_e3_se", "proj", "conv_k3", "sepconv_k5", "avgpool_k3", "maxpool_k3"]
    every = [Layer(CANDIDATES[name], 8, 8, 9, stride=2) for name in names]
    residual = Layer(CANDIDATES["mbconv_k5_e3"], 8, 8, 9, residual=True)
    return [*every, residual, Layer(CANDIDATES["proj"], 8, 80, 9)]


@pytest.fixture(scope="module")
def exported() -> dict[Layer, tuple[torch.nn.Module, onnx.ModelProto]]:
    """The modules and their float32 models."""
    from supernet.ops import OpSettings

    modules = {layer: timing_module(layer, OpSettings(running_stats=True)) for layer in layers()}
    models = onnx_models.export_layers(modules, batch=1)
    return {layer: (modules[layer], models[layer]) for layer in modules}


def quantised(layer: Layer, model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    """Returns the int8 model of a layer."""
    name = model.graph.input[0].name
    return quantised_onnx(model, [{name: random_images(layer, 1).numpy()} for _ in range(4)], **options)


@pytest.mark.parametrize("layer", layers(), ids=str)
def test_an_int8_layer_computes_the_float_one_in_integers(layer, exported):
    """A range has 255 steps. The nodes that are left after fusing are those of the float model, in their int8 form."""
    module, model = exported[layer]
    images = random_images(layer, 1)
    model = quantised_onnx(model, [{model.graph.input[0].name: images.numpy()}])
    here, there = module(images).detach().numpy(), output_of(model, images.numpy())
    assert np.abs(there - here).max() <= 0.05 * np.abs(here).max()
    ops = optimised_ops(model)
    assert "Conv" not in ops
    assert "Add" not in ops
    sigmoids = ops["HardSigmoid"]  # ONNX Runtime has none in int8
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (1 + sigmoids, 1 + sigmoids)


def test_each_output_channel_has_a_scale_of_its_own(exported):
    layer = next(layer for layer in exported if str(layer.spec) == "conv_k3")
    for per_channel, scales in ((True, layer.c_out), (False, 1)):
        model = quantised(layer, exported[layer][1], per_channel=per_channel)
        (weight,) = [t.name for t in model.graph.initializer if t.name.endswith("weight_quantized")]
        (reader,) = [node for node in model.graph.node if node.input[0] == weight]
        (scale,) = [t for t in model.graph.initializer if t.name == reader.input[1]]
        assert onnx.numpy_helper.to_array(scale).size == scales


def test_a_node_that_is_kept_stays_in_float32(exported):
    layer = next(layer for layer in exported if str(layer.spec) == "mbconv_k3_e1")
    _, model = exported[layer]
    first = next(node.name for node in model.graph.node if node.op_type == "Conv")
    before = model.SerializeToString()
    ops = optimised_ops(quantised(layer, model, keep=[first]))
    assert ops["QLinearConv"] == 1
    assert sum(count for op, count in ops.items() if op in ("Conv", "FusedConv")) == 1
    assert model.SerializeToString() == before


def test_what_a_file_says_about_itself_is_kept(exported):
    layer, (_, model) = next(iter(exported.items()))
    named = onnx.ModelProto()
    named.CopyFrom(model)
    named.metadata_props.add(key="classes", value="[]")
    assert {p.key: p.value for p in quantised(layer, named).metadata_props} == {"classes": "[]"}


def test_the_outermost_values_of_a_percentile_are_cut_off(exported):
    """One pixel has the value 1000, the others are around 0. It widens the range from the smallest to the largest
    value, but not that of a percentile."""
    layer = next(layer for layer in exported if str(layer.spec) == "proj")
    _, model = exported[layer]
    name = model.graph.input[0].name
    images = random_images(layer, 1).numpy()
    images[0, 0, 0, 0] = 1000.0
    scales = []
    for ranges in ("minmax", "percentile"):
        found = quantised_onnx(model, [{name: images}], ranges=ranges, percentile=99.0)
        (scale,) = [t for t in found.graph.initializer if t.name == f"{name}_scale"]
        scales.append(float(onnx.numpy_helper.to_array(scale)))
    assert scales[0] > 3.9
    assert scales[1] < 0.1


def test_quantising_prints_nothing(exported, capfd, caplog):
    layer, (_, model) = next(iter(exported.items()))
    quantised(layer, model)
    printed = capfd.readouterr()
    assert (printed.out, printed.err, caplog.text) == ("", "", "")


def test_a_chain_of_int8_layers_has_the_operations_of_the_quantised_network(small_space, quick, tmp_path):
    """Each layer was quantised alone; in a network, ONNX Runtime fuses them as it fuses a network's own."""
    paths = (1, 1, 0)
    measure = quick.model_copy(update={"runtime": "onnxruntime", "dtype": "int8"})
    (record,) = write_models(small_space, measure, [network_job(small_space, "n", "verification", paths)], tmp_path)
    network = ready_to_time(Network(Architecture(small_space, paths)))
    whole, shape = onnx_models.write_network("whole", network, torch.randn(1, 1, 8, 8), tmp_path, "int8")
    assert shape == [1, 1, 8, 8]
    ops = optimised_ops(tmp_path / str(record["file"]))
    assert ops == optimised_ops(tmp_path / whole)
    assert ops["QLinearConv"] > 2
    assert "Conv" not in ops


def test_a_float_layer_between_int8_layers_gets_and_gives_numbers(exported):
    """An operation that the quantiser does not know stays as it is; the codes end before it and begin again after."""
    layer = next(layer for layer in exported if str(layer.spec) == "mbconv_k5_e3")
    int8 = quantised(layer, exported[layer][1])
    given, out = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 8, 9, 9]) for n in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"], name="erf")], "erf", [given], [out])
    erf = helper.make_model(graph, opset_imports=int8.opset_import, ir_version=int8.ir_version)
    values = onnx_models.SharedValues(iter([int8]))
    model, _ = onnx_models.chain([int8, erf, int8], ["a", "erf", "b"], values)
    ops = Counter(node.op_type for node in model.graph.node)
    alone = Counter(node.op_type for node in int8.graph.node)
    assert ops["QuantizeLinear"] == 2 * alone["QuantizeLinear"]
    assert ops["DequantizeLinear"] == 2 * alone["DequantizeLinear"]


def test_int8_layers_share_their_values_and_each_weight_has_its_own_place(exported, tmp_path):
    """A network that holds a layer twice reads its scales twice and has two weights; what is read first in the file are
    the values that the quantiser computed."""
    layer = next(layer for layer in exported if layer.c_out > onnx_models.LARGEST_INLINE)
    int8 = quantised(layer, exported[layer][1])
    values = onnx_models.SharedValues(iter([int8, int8]))
    model, size = onnx_models.chain([int8, int8], ["a", "b"], values, values.size)
    places = {}
    for tensor in model.graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            places[tensor.name] = int(where["offset"]), int(where["length"])
    weights = [place for name, place in places.items() if name.endswith("weight_quantized")]
    others = {name: place for name, place in places.items() if place not in weights}
    assert weights == sorted(set(weights))
    assert weights[0][0] == values.size
    assert weights[-1][0] + weights[-1][1] <= size
    assert {name[4:]: place for name, place in others.items() if name.startswith("L00")} == {
        name[4:]: place for name, place in others.items() if name.startswith("L01")
    }
    with open(tmp_path / "values", "wb") as file:
        values.write(file)
    content = (tmp_path / "values").read_bytes()
    assert len(content) == values.size
    for tensor in int8.graph.initializer:
        if f"L00.{tensor.name}" in others:
            start, length = others[f"L00.{tensor.name}"]
            assert content[start : start + length] == onnx.numpy_helper.to_array(tensor).tobytes()


def test_an_int8_layer_that_computes_something_else_is_named(exported, monkeypatch):
    def wrong(model, feeds, **options):
        return quantised_onnx(model, [{name: 0.01 * array for name, array in feed.items()} for feed in feeds])

    monkeypatch.setattr(onnx_models, "quantised_onnx", wrong)
    layer, (module, model) = next(iter(exported.items()))
    with pytest.raises(UserError, match=r"'mbconv_k3_e1 9x9x8->8 s2' computes something else .* in int8 than in PyT"):
        onnx_models.quantised_layers({layer: model}, {layer: module}, batch=1)


def test_litert_models_are_quantised(small_space: Space):
    pytest.importorskip("litert_torch", reason="needs the extra [litert], which needs torch below 2.15")
    pytest.importorskip("ai_edge_quantizer", reason="needs the extra [litert]")
    from latency.on_device.models import litert
    from latency.runtimes import litert_models

    layer = Layer(CANDIDATES["mbconv_k5_e3"], 8, 8, 9, residual=True)
    module = timing_module(layer, small_space.op_settings(running_stats=True))
    inputs = [random_images(layer, 1).permute(0, 2, 3, 1).contiguous().numpy() for _ in range(4)]
    content = quantised_litert(litert_models._convert(module, random_images(layer, 1), "layer"), inputs)
    interpreter = litert().Interpreter(model_content=content)
    interpreter.allocate_tensors()
    given, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert given["dtype"] == out["dtype"] == np.int8
    ops = Counter(op["op_name"] for op in interpreter._get_ops_details())
    assert not set(ops) & {"QUANTIZE", "DEQUANTIZE"}
    scale, zero = given["quantization"]
    interpreter.set_tensor(given["index"], np.clip(np.round(inputs[0] / scale) + zero, -128, 127).astype(np.int8))
    interpreter.invoke()
    scale, zero = out["quantization"]
    there = (interpreter.get_tensor(out["index"]).astype(np.float32) - zero) * scale
    here = module(torch.from_numpy(inputs[0]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
    assert np.abs(there - here).max() <= 0.1 * np.abs(here).max()


def test_litert_writes_a_job_in_the_precision_that_it_asks_for(small_space, quick, tmp_path):
    """A chain that runs in both precisions is converted once; a whole network is checked against PyTorch in int8."""
    pytest.importorskip("litert_torch", reason="needs the extra [litert], which needs torch below 2.15")
    pytest.importorskip("ai_edge_quantizer", reason="needs the extra [litert]")
    from latency.on_device.models import LiteRTModel
    from latency.runtimes import litert_models

    layer = Layer(CANDIDATES["conv_k3"], 8, 8, 9)
    job = TimingJob("a", "layer", (layer,))
    jobs = [job, replace(job, id="b", in_float32=True)]
    records = write_models(small_space, quick.model_copy(update={"runtime": "litert", "dtype": "int8"}), jobs, tmp_path)
    opened = [LiteRTModel(tmp_path / str(r["file"]), (1, 9, 9, 8), threads=1) for r in records]
    given = random_images(layer, 1).permute(0, 2, 3, 1).contiguous().numpy()
    kinds = [model.interpreter.get_input_details()[0]["dtype"] for model in opened]
    assert kinds == [np.int8, np.float32]
    int8, float32 = (model.output(given) for model in opened)
    assert 0 < np.abs(int8 - float32).max() <= 0.1 * np.abs(float32).max()
    assert all(len(model.times(2)) == 2 for model in opened)
    network = nn.Sequential(timing_module(layer, small_space.op_settings(running_stats=True)))
    file, shape = litert_models.write_network("whole", network, random_images(layer, 1), tmp_path, "int8")
    assert shape == [1, 9, 9, 8]
    whole = LiteRTModel(tmp_path / file, shape, threads=1)
    assert whole.interpreter.get_output_details()[0]["dtype"] == np.int8
