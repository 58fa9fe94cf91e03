"""Runtimes: the chains that they time compute what networks compute, with the stated settings."""

from __future__ import annotations

import copy
import errno
import gzip
import importlib.util
import itertools
import shutil
import tempfile
import typing
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import ConfigError, UserError
from engine.files import WriteError
from latency.config import MeasureConfig
from latency.device import this_device
from latency.measure import NetworkTimer
from latency.on_device import models
from latency.on_device.models import OnnxModel
from latency.plan import Counts, draw_plan, network_job, timed_layers
from latency.runtimes import RUNTIMES, open_runtime, pytorch, version_here
from latency.runtimes.base import random_images, timing_module
from latency.runtimes.exported import FILE_RUNTIMES, Exported
from latency.runtimes.pytorch import PyTorch
from supernet.architecture import Architecture
from supernet.catalogue import CANDIDATES, Candidate
from supernet.complexity import Complexity
from supernet.network import Network
from supernet.space import Layer

PATHS = (1, 1, 0)


def test_a_chain_computes_what_the_network_computes(small_space, quick):
    job = network_job(small_space, "n", "verification", PATHS)
    network = Network(Architecture(small_space, PATHS)).eval()
    with open_runtime(small_space, quick) as runner:
        runner.prepare([job])
        opened = runner.open(job)
        stem, *edges, mix, classifier = opened.modules
        network.stem.load_state_dict(stem.op.state_dict())
        for own, block in zip(network.edges, edges, strict=True):  # no skip among these paths
            own.op.load_state_dict(block.op.state_dict())
        network.feature_mix.load_state_dict(mix.op.state_dict())
        network.classifier.load_state_dict(classifier.op.state_dict())
        x = opened.images
        for module in opened.modules:
            x = module(x)
        expected = network(opened.images)
    torch.testing.assert_close(x, expected)
    assert expected.abs().max() > 1e-3  # nothing vanished on the way


def test_skip_is_left_out_of_a_chain(small_space, quick):
    job = network_job(small_space, "n", "verification", (3, 0, 1))
    assert [str(layer.spec) for layer in job.layers] == ["stem_k3", "proj", "feature_mix", "pool_classifier"]


def test_layers_of_equal_shape_have_weights_of_their_own(space_of, quick):
    """It is so in a network; shared weights would stay in the cache."""
    space = space_of(
        {
            "input_size": 8, "input_channels": 1, "classes": 2, "stem": {"kernel": 3, "stride": 1, "width": 8},
            "stages": [{"width": 8, "depth": 2, "candidates": ["mbconv_k3_e3", "conv_k1"]}], "feature_mix": 16,
        }
    )  # fmt: skip
    job = network_job(space, "n", "verification", (0, 0))
    with open_runtime(space, quick) as runner:
        runner.prepare([job])
        first, second = runner.open(job).modules[1:3]
    assert first is not second


def test_ops_run_with_the_threads_and_the_mode_that_the_table_states(small_space, quick, monkeypatch):
    """During a pass, the thread count is the configured one, in eval mode and inference mode."""
    from latency.runtimes import pytorch

    seen, real = set(), pytorch._Chain.run

    def watched(self, passes):
        seen.add((torch.get_num_threads(), any(m.training for m in self.modules), torch.is_inference_mode_enabled()))
        real(self, passes)

    monkeypatch.setattr(pytorch._Chain, "run", watched)
    other = 2 if torch.get_num_threads() == 1 else 1
    job = network_job(small_space, "n", "verification", PATHS)
    with open_runtime(small_space, quick.model_copy(update={"threads": other})) as runner:
        runner.prepare([job])
        runner.open(job).times(2)
    assert seen == {(other, False, True)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_dtype_and_memory_format_are_those_asked_for(dtype, channels_last, small_space, quick):
    measure = quick.model_copy(update={"dtype": dtype, "channels_last": channels_last})
    job = network_job(small_space, "n", "verification", PATHS)
    with open_runtime(small_space, measure) as runner:
        runner.prepare([job])
        opened = runner.open(job)
        assert all(p.dtype == measure.torch_dtype for m in opened.modules for p in m.parameters())
        weight = opened.modules[1].op.expand.conv.weight
        assert weight.is_contiguous(memory_format=measure.memory_format)
        assert opened.images.dtype == measure.torch_dtype


def test_a_job_inside_times_every_layer(small_space, quick):
    jobs = draw_plan(small_space, Counts(1, 0, 0, alone=True), 0)
    with open_runtime(small_space, quick) as runner:
        runner.prepare(jobs)
        for job in jobs:
            times = runner.open(job).times(3)
            assert np.shape(times) == ((3, len(job.layers)) if job.inside else (3,))
            assert np.all(np.array(times) > 0)


def test_activations_neither_vanish_nor_explode_in_a_deep_network(space_of, quick):
    space = space_of(
        {
            "input_size": 16, "stem": {"kernel": 3, "stride": 1, "width": 16}, "classes": 10, "feature_mix": 32,
            "stages": [{"width": 16, "depth": 40, "candidates": ["mbconv_k7_e6", "mbconv_k3_e3"], "residual": False}],
        }
    )  # fmt: skip
    job = network_job(space, "n", "verification", (0,) * 40)
    with open_runtime(space, quick) as runner:
        runner.prepare([job])
        x = runner.open(job).images
        for module in runner.open(job).modules:
            x = module(x)
            assert 1e-6 < x.abs().max() < 1e6


def test_compiled_layers_compute_the_same(small_space, quick):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler (g++)")
    measure = quick.model_copy(update={"runtime": "pytorch_compile"})
    job = network_job(small_space, "n", "verification", PATHS)
    with open_runtime(small_space, measure) as compiled, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled.prepare([job])
        assert compiled.name == "pytorch_compile"
        opened = compiled.open(job)
        x = y = opened.images
        for module in opened.modules:
            assert hasattr(module, "_orig_mod")
            x, y = module(x), module._orig_mod(y)
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        assert len(opened.times(2)) == 2


# ---- ONNX Runtime ----


@pytest.fixture
def onnx_models():
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    from latency.runtimes import onnx_models

    return onnx_models


def layers_of_the_catalogue() -> list[Layer]:
    """Returns one op of each kind, on odd maps and with strides."""
    names = [
        "mbconv_k3_e1",
        "mbconv_k5_e3",
        "mbconv_k7_e6_se",
        "proj",
        "conv_k3",
        "sepconv_k5",
        "avgpool_k3",
        "maxpool_k3",
    ]
    layers = [Layer(CANDIDATES[name], 8, 8, 9, stride=2) for name in names]
    return [*layers, Layer(CANDIDATES["mbconv_k5_e3"], 8, 8, 9, residual=True)]


@pytest.mark.parametrize("activation", ["relu6", "relu", "hswish"])
def test_exported_layers_compute_what_ours_do(activation, onnx_models, small_space):
    import onnxruntime

    settings = small_space.op_settings(running_stats=True)
    settings = type(settings)(activation, settings.bn_eps, settings.bn_momentum)
    modules = {layer: timing_module(layer, settings) for layer in layers_of_the_catalogue()}
    for layer, model in onnx_models.export_layers(modules, batch=2).items():
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        x = random_images(layer, 2)
        (there,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(there), modules[layer](x).detach(), rtol=1e-3, atol=1e-4)


def test_a_glued_network_computes_the_chain(onnx_models, small_space, tmp_path):
    """The layers' own weights are written into the file of weights; two layers of equal shape differ."""
    import onnx

    settings = small_space.op_settings(running_stats=True)
    conv = Layer(CANDIDATES["conv_k3"], 8, 8, 9, residual=True)
    layers = [Layer(CANDIDATES["conv_k3"], 3, 8, 9), conv, Layer(CANDIDATES["mbconv_k3_e3_se"], 8, 16, 9, stride=2)]
    modules = {layer: timing_module(layer, settings) for layer in layers}
    exported = onnx_models.export_layers(modules, batch=1)
    order = [layers[0], conv, conv, layers[2]]
    model, size = onnx_models.chain([exported[layer] for layer in order], [str(layer) for layer in order])
    weights = bytearray(size)
    taken: list[tuple[int, int]] = []
    for i, layer in enumerate(order):
        for tensor in exported[layer].graph.initializer:
            (glued,) = [t for t in model.graph.initializer if t.name == f"L{i:02}.{tensor.name}"]
            where = {entry.key: entry.value for entry in glued.external_data}
            if where:
                start, length = int(where["offset"]), int(where["length"])
                weights[start : start + length] = onnx.numpy_helper.to_array(tensor).tobytes()
                taken.append((start, start + length))
    taken.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(taken))  # none overlaps
    assert taken[-1][1] <= size
    (tmp_path / "weights.bin").write_bytes(weights)
    onnx.save(model, tmp_path / "chain.onnx")
    opened = OnnxModel(tmp_path / "chain.onnx", (1, 3, 9, 9), threads=1)
    (image,) = opened.feed.values()
    (there,) = opened.session.run(None, opened.feed)
    x = torch.from_numpy(image)
    for layer in order:
        x = modules[layer](x)
    torch.testing.assert_close(torch.from_numpy(there), x.detach(), rtol=1e-3, atol=1e-4)


def test_the_profile_attributes_a_pass_to_its_layers(onnx_models, small_space, quick):
    measure = quick.model_copy(update={"runtime": "onnxruntime"})
    jobs = draw_plan(small_space, Counts(1, 0, 0, alone=False), 0)
    with open_runtime(small_space, measure) as runner:
        runner.prepare(jobs)
        for job in jobs:
            opened = runner.open(job)
            opened.run(2)
            times = np.array(opened.times(3))
            opened.close()
            assert times.shape == (3, len(job.layers))
            assert (times >= 0).all()
            assert (times.sum(axis=1) > 0).all()


def test_an_opened_model_that_was_never_timed_leaves_no_profile_behind(
    onnx_models, small_space, quick, monkeypatch, tmp_path
):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    measure = quick.model_copy(update={"runtime": "onnxruntime"})
    jobs = draw_plan(small_space, Counts(1, 0, 0, alone=False), 0)[:1]
    with open_runtime(small_space, measure) as runner:
        runner.prepare(jobs)
        for timed in (False, True):
            opened = runner.open(jobs[0])
            assert not timed or opened.times(1)
            opened.close()
    assert [path for path in tmp_path.iterdir() if "profile" in path.name] == []


class _Unexportable(nn.Module):
    def forward(self, x):
        return x if x.sum().item() > 0 else -x  # control flow that depends on data


@dataclass(frozen=True)
class _UnexportableSpec(Candidate):
    def __str__(self):
        return "unexportable"

    def build(self, c_in, c_out, stride, settings):
        return _Unexportable()

    def complexity(self, c_in, c_out, size, stride):
        return Complexity()


def test_an_op_that_cannot_be_exported_is_named(onnx_models, small_space):
    settings = small_space.op_settings(running_stats=True)
    layers = [Layer(CANDIDATES["proj"], 4, 4, 5), Layer(_UnexportableSpec(), 4, 4, 5)]
    with pytest.raises(UserError, match=r"'unexportable 5x5x4->4 s1' cannot be exported.*measure\.runtime=pytorch"):
        onnx_models.export_layers({layer: timing_module(layer, settings) for layer in layers}, batch=1)


def test_an_op_that_computes_something_else_there_is_named(onnx_models, small_space, monkeypatch):
    settings = small_space.op_settings(running_stats=True)
    layer = Layer(CANDIDATES["proj"], 4, 4, 5)
    module = timing_module(layer, settings)
    (model,) = onnx_models.export_layers({layer: module}, batch=1).values()
    with torch.no_grad():
        next(module.parameters()).mul_(1.1)
    with pytest.raises(UserError, match=r"'proj 5x5x4->4 s1' computes something else"):
        onnx_models._check_numerics(model, module, layer, random_images(layer, 1))


def test_every_exported_layer_is_compared(onnx_models, small_space, monkeypatch):
    seen = []
    monkeypatch.setattr(onnx_models, "_check_numerics", lambda model, module, layer, images: seen.append(layer))
    settings = small_space.op_settings(running_stats=True)
    layers = timed_layers(small_space)[:3]
    onnx_models.export_layers({layer: timing_module(layer, settings) for layer in layers}, batch=1)
    assert seen == layers


def test_a_runtime_that_is_not_installed_names_its_extra(small_space, quick, monkeypatch):
    from latency.runtimes import exported

    monkeypatch.setattr(exported.importlib.util, "find_spec", lambda name: None)
    job = network_job(small_space, "n", "verification", PATHS)
    for runtime, extra in (("onnxruntime", r"\[onnx\]"), ("litert", r"\[litert\]")):
        measure = quick.model_copy(update={"runtime": runtime})
        with (
            open_runtime(small_space, measure) as runner,
            pytest.raises(ConfigError, match=f"measure.runtime.*{extra}"),
        ):
            runner.prepare([job])


# ---- LiteRT ----


def test_litert_computes_what_ours_do_and_can_be_timed(small_space, quick):
    pytest.importorskip("litert_torch", reason="needs the extra [litert], which needs torch below 2.15")
    measure = quick.model_copy(update={"runtime": "litert"})
    jobs = draw_plan(small_space, Counts(0, 0, 0, alone=True), 0)
    assert len(jobs) == len(timed_layers(small_space))
    network = network_job(small_space, "n", "verification", PATHS)
    with open_runtime(small_space, measure) as runner:
        runner.prepare([*jobs, network])  # compares every layer with PyTorch
        for job in (*jobs, network):
            opened = runner.open(job)
            opened.run(1)
            assert len(opened.times(2)) == 2
            opened.close()


def test_a_litert_model_without_bn_has_the_operations_of_one_with_it(small_space, quick, tmp_path):
    """BN is folded before the conversion, which the converter would do, too, more slowly."""
    pytest.importorskip("litert_torch", reason="needs the extra [litert], which needs torch below 2.15")
    from ai_edge_litert.interpreter import Interpreter

    from latency.runtimes.litert_models import LiteRTWriter, _ChannelsLast, converted

    def operations(content: bytes) -> list[tuple[str, list[list[int]]]]:
        model = Interpreter(model_content=content)
        shapes = {tensor["index"]: tensor["shape"].tolist() for tensor in model.get_tensor_details()}
        return [(op["op_name"], [shapes[i] for i in op["inputs"] if i >= 0]) for op in model._get_ops_details()]

    measure = quick.model_copy(update={"runtime": "litert"})
    job = network_job(small_space, "n", "verification", PATHS)
    writer = LiteRTWriter(small_space, measure, [job], tmp_path)
    written = gzip.decompress((tmp_path / writer.write(job)).read_bytes())
    settings = small_space.op_settings(running_stats=True)
    with_bn = nn.Sequential(*(timing_module(layer, settings) for layer in job.layers))
    assert any(isinstance(m, nn.BatchNorm2d) for m in with_bn.modules())
    for parameter in with_bn.parameters():
        nn.init.constant_(parameter, 0.01)  # a bias of 0 would be left out
    images = random_images(job.layers[0], measure.batch).permute(0, 2, 3, 1)
    assert operations(written) == operations(converted(_ChannelsLast(with_bn).eval(), images))


def test_biases_stand_in_for_those_of_a_folded_bn(small_space):
    layer = network_job(small_space, "n", "verification", PATHS).layers[1]
    torch.manual_seed(0)
    module = timing_module(layer, replace(small_space.op_settings(running_stats=True), folded=True))
    biases = [m.bias for m in module.modules() if isinstance(m, nn.Conv2d)]
    assert biases
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    assert all(bias is not None and 0.02 < bias.std() < 0.5 for bias in biases)


def test_eager_is_the_default_runtime(small_space, quick):
    assert type(open_runtime(small_space, quick)) is PyTorch


def test_every_runtime_that_a_config_may_name_is_there():
    assert set(RUNTIMES) == set(typing.get_args(MeasureConfig.model_fields["runtime"].annotation))


def test_every_runtime_that_reads_files_has_a_writer_here_and_a_model_on_the_device():
    assert set(FILE_RUNTIMES) == set(models.RUNTIMES)
    assert all(RUNTIMES[name] is Exported for name in FILE_RUNTIMES)
    for runtime in FILE_RUNTIMES.values():
        module, _, name = runtime.writer.partition(":")
        spec = importlib.util.find_spec(module)  # without importing it, which needs the extra
        assert spec
        assert f"class {name}:" in Path(str(spec.origin)).read_text()


def test_every_runtime_returns_its_own_version(monkeypatch):
    class Mine(PyTorch):
        @classmethod
        def installed(cls, name):
            return f"{name} 7"

    monkeypatch.setitem(RUNTIMES, "mine", Mine)
    assert version_here("mine") == "mine 7"
    assert version_here("pytorch_compile") == torch.__version__
    assert version_here("unknown") is None


# --- a GPU, played by two clocks -------------------------------------------------------------------------------------


class PlayedGpu:
    """A CPU that takes `launch_ms` to launch a kernel, and a GPU that takes `kernel_ms` to run it."""

    def __init__(self, monkeypatch, launch_ms: float, kernel_ms: float, cycles_in_a_ms: float = 1 << 21):
        self.cpu_ms = self.gpu_ms = 0.0
        self.launch_ms, self.kernel_ms = launch_ms, kernel_ms
        self.waits: list[int] = []
        gpu = self

        def sleep(cycles: int) -> None:
            gpu.waits.append(cycles)
            gpu.work(cycles / cycles_in_a_ms)

        class Event:
            def __init__(self, enable_timing: bool):
                assert enable_timing

            def record(self) -> None:
                self.at_ms = max(gpu.gpu_ms, gpu.cpu_ms)

            def query(self) -> bool:
                return self.at_ms <= gpu.cpu_ms

            def elapsed_time(self, later: Event) -> float:
                return later.at_ms - self.at_ms

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", sleep)
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)

    def work(self, ms: float) -> None:
        """Queues a kernel, which the CPU launches and the GPU runs once it is free."""
        self.cpu_ms += self.launch_ms
        self.gpu_ms = max(self.gpu_ms, self.cpu_ms) + ms

    def wait(self) -> None:
        self.cpu_ms = max(self.cpu_ms, self.gpu_ms)

    def layer(self, kernels: int):
        def forward(x):
            for _ in range(kernels):
                self.work(self.kernel_ms)
            return x

        return forward


@pytest.mark.parametrize("launch_ms", [0.001, 0.01, 1.0])
def test_the_time_of_a_layer_on_a_gpu_is_not_that_of_launching_it(launch_ms, monkeypatch):
    """Kernels take 2 us and are launched every 1 us, 10 us or 1 ms: the layers take 2 us a kernel."""
    gpu = PlayedGpu(monkeypatch, launch_ms, kernel_ms=0.002)
    kernels = [1, 8, 3]
    chain = pytorch._CudaChain([gpu.layer(k) for k in kernels], torch.zeros(1), inside=True)
    for taken in chain.times(3):
        assert taken == pytest.approx([0.002 * k for k in kernels])
    whole = pytorch._CudaChain([gpu.layer(k) for k in kernels], torch.zeros(1), inside=False)
    assert whole.times(2) == pytest.approx([0.002 * 12] * 2)


def test_the_gpu_waits_longer_if_the_cpu_is_too_slow_to_queue_a_network(monkeypatch):
    gpu = PlayedGpu(monkeypatch, launch_ms=1.0, kernel_ms=0.002)
    chain = pytorch._CudaChain([gpu.layer(10)] * 2, torch.zeros(1), inside=True)
    chain.times(2)
    assert gpu.waits[0] == pytorch.FIRST_WAIT  # 4 ms, where queueing takes 20
    assert gpu.waits[-1] / (1 << 21) > 20
    assert gpu.waits[-1] == gpu.waits[-2]  # the second pass begins with the longer wait


def test_an_op_that_waits_for_the_gpu_itself_is_one_line(monkeypatch):
    gpu = PlayedGpu(monkeypatch, launch_ms=0.01, kernel_ms=0.002)
    chain = pytorch._CudaChain([lambda x: (gpu.wait(), x)[1]], torch.zeros(1), inside=False)
    with pytest.raises(UserError, match=r"measure\.device: .*an op waits for the GPU itself"):
        chain.times(1)


def test_the_identity_is_that_of_the_gpu_in_use(monkeypatch):
    """The identity is not that of GPU 0 if the timing uses another one."""
    cards = [("small", 10), ("large", 20)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda i: SimpleNamespace(name=cards[i][0], multi_processor_count=cards[i][1]),
    )
    devices = {}
    for current in (0, 1):
        monkeypatch.setattr(torch.cuda, "current_device", lambda current=current: current)
        devices[current] = this_device("cuda")
        assert (devices[current].kind, devices[current].name, devices[current].cores) == ("gpu", *cards[current])
    assert devices[0].fingerprint != devices[1].fingerprint


def test_a_full_disk_while_models_are_written_is_one_line(small_space, quick, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("latency.runtimes.exported.write_models", full)
    with (
        open_runtime(small_space, quick.model_copy(update={"runtime": "onnxruntime"})) as runner,
        pytest.raises(WriteError, match=r"latency_models_.*: cannot be written \(No space left on device\); make room"),
    ):
        runner.prepare([])


WHOLE = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))


@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime", "cuda"])
def test_a_whole_network_is_loaded_with_the_batch_and_timed(runtime, quick):
    """A module needs no space to be timed; `ready_to_time` puts it into eval mode, with biases that keep it alive."""
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    if runtime == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    place = {"device": "cuda"} if runtime == "cuda" else {"runtime": runtime}
    measure = quick.model_copy(update={**place, "batch": 2})
    network = copy.deepcopy(WHOLE)
    with NetworkTimer(measure) as timer:
        timer.load("n0", network, channels=3, size=8)
        timer.load("n1", nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), channels=3, size=2)
        opened = timer._openers["n0"]()
        shape = opened.images.shape if runtime != "onnxruntime" else next(iter(opened.feed.values())).shape
        assert tuple(shape) == (2, 3, 8, 8)
        timings = timer.timings(rounds=2)
        assert timer.version
    assert not network.training
    assert network[1].bias.abs().min() > 0
    assert list(timings) == ["n0", "n1"]
    assert all(timing.n == 2 * 3 * quick.passes and timing.median_ms > 0 for timing in timings.values())


def test_a_network_that_a_runtime_cannot_run_is_an_error_in_one_line(quick):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.ops.aten._linalg_eigh(x[0, 0])[0]

    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    timer = NetworkTimer(quick.model_copy(update={"runtime": "onnxruntime"}))
    with timer, pytest.raises(UserError, match=r"^'odd' cannot be exported to ONNX: ") as found:
        timer.load("odd", Odd(), channels=1, size=4)
    assert "\n" not in str(found.value)
