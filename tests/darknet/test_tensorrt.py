"""The network defined through TensorRT's API: computed with numpy, and built with RTX.

No GPU is needed: a fake network computes what the calls mean, and TensorRT for RTX builds
engines on any machine when it is told what GPU they are for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import backends
from boxwright.darknet.activations import ACTIVATIONS as ALL_ACTIVATIONS
from boxwright.darknet.network import read_network
from boxwright.darknet.onnx import to_onnx
from boxwright.darknet.tensorrt import Definition, define_network
from boxwright.darknet.tensorrt.activations import ACTIVATIONS
from boxwright.darknet.weights import WeightsReader
from boxwright.errors import BuildError, UnsupportedError
from boxwright.importers import import_model
from tests.darknet.cfgs import YOLO, cfg_text, random_weights, write_weights
from tests.darknet.fake_tensorrt import ATTRIBUTES, ENUMS, FakeNetwork, fake_trt
from tests.oracle.conftest import TRAINED, make_seeded_weights
from tests.oracle.test_layers import NETWORKS

CONV = "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"

# ONNX Runtime's own distance from ONNX's definitions in the deepest networks, with random
# weights, is 1e-4.
ROUNDING = 5e-4

# What the package leaves to the ONNX graph, and the words of the refusal.
REFUSED = {
    "a blur after a convolution": "antialiasing",
    "the smaller blur": "antialiasing",
    "a blur after maxpool": "antialiasing",
    "maxpool over channels": "[maxpool] this layer",
    "maxpool over channels with a rest": "[maxpool] this layer",
    "head detection": "[connected] this layer",
    "head detection after local layers": "[local] this layer",
    "crop": "[crop] this layer",
    "crop as it is": "[crop] this layer",
    "head Gaussian yolo": "[gaussian_yolo] this head",
    "head Gaussian yolo, left_top": "[gaussian_yolo] this head",
    "head Gaussian yolo, right_bottom": "[gaussian_yolo] this head",
    **{
        f"activation {name}": f"activation {name} is not"
        for name in ALL_ACTIVATIONS
        if name not in ACTIVATIONS and f"activation {name}" in NETWORKS
    },
}


def write(folder: Path, text: str) -> tuple[Path, Path]:
    """A cfg and random weights."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(text)
    write_weights(weights, random_weights(read_network(cfg)))
    return cfg, weights


def define(
    cfg: Path, weights: Path, network: Any, trt: Any, size: tuple[int, int] | None = None
) -> Definition:
    darknet = read_network(cfg, size)
    with WeightsReader(weights, darknet) as reader:
        return define_network(network, darknet, reader, trt)


def compare(
    cfg: Path,
    weights: Path,
    version: int,
    backend: str = "reference",
    size: tuple[int, int] | None = None,
    tolerance: float = 1e-6,
) -> None:
    """The fake network's outputs against those of the imported graph."""
    model = import_model(weights, cfg=cfg, size=size)
    images = np.random.default_rng(1).integers(0, 256, (2, *model.card.input_size, 3), np.uint8)
    network = FakeNetwork(fake_trt(version))
    define(cfg, weights, network, network.trt, size)
    got = network.run({"images": images})
    with backends.load(model, backend=backend) as runner:
        expected = runner.infer({"images": images})
    assert list(got) == ["boxes", "scores"]
    side = max(images.shape)
    for name, values in expected.items():
        assert got[name].shape == values.shape
        assert got[name].dtype == np.float32
        # A box of random weights may be a thousand images wide: its error is relative then.
        scale = np.maximum(np.abs(values), 1 if name == "scores" else side)
        assert np.abs((got[name] - values) / scale).max() < tolerance, name
        error = np.linalg.norm(got[name] - values) / np.linalg.norm(values)
        assert error < 10 * tolerance, name


@pytest.mark.parametrize("version", [8, 10])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in REFUSED])
def test_the_calls_mean_what_the_onnx_graph_means(name: str, version: int, tmp_path: Path) -> None:
    compare(*write(tmp_path, NETWORKS[name]), version)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_defined_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, NETWORKS[name])
    network = FakeNetwork(fake_trt(10))
    with pytest.raises(UnsupportedError) as caught:
        define(cfg, weights, network, network.trt)
    assert str(caught.value).startswith(f"{cfg}:{caught.value.line}: ")
    assert REFUSED[name] in str(caught.value)
    assert network.layers == []


@pytest.mark.parametrize("activation", sorted(set(ALL_ACTIVATIONS) - set(ACTIVATIONS)))
def test_other_activations_are_refused(activation: str, tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, cfg_text(CONV.replace("leaky", activation)))
    network = FakeNetwork(fake_trt(10))
    with pytest.raises(UnsupportedError, match=rf"net.cfg:9: .* activation {activation} is not"):
        define(cfg, weights, network, network.trt)


def test_class_trees_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.tree").write_text("a -1\nb -1\n")
    text = cfg_text("", 8, 8).replace(YOLO, "") + CONV.replace("=4", "=14")
    text += "[region]\nclasses=2\nnum=2\nanchors=1,1, 2,2\ntree=t.tree\n"
    cfg, weights = write(tmp_path, text)
    network = FakeNetwork(fake_trt(10))
    with pytest.raises(UnsupportedError, match=r"net.cfg:\d+: \[region\] class trees"):
        define(cfg, weights, network, network.trt)


@pytest.mark.parametrize("version", [8, 10])
def test_grey_networks(tmp_path: Path, version: int) -> None:
    compare(*write(tmp_path, cfg_text(CONV, 8, 6, channels=1)), version)


def test_reverse_reorg(tmp_path: Path) -> None:
    for name in ("reorg", "reorg3d"):
        body = CONV + f"[{name}]\nstride=2\n[{name}]\nstride=2\nreverse=1\n"
        compare(*write(tmp_path, cfg_text(body, 8, 12)), 10)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("yolov4-tiny", (96, 160)),
        ("yolov3-tiny", (160, 96)),
        ("yolov2-tiny", (96, 128)),
        ("yolov7-tiny", (128, 96)),
        ("enet-coco", (96, 96)),
        pytest.param("yolov2", (96, 128), marks=pytest.mark.slow),
        pytest.param("yolov3-spp", (96, 96), marks=pytest.mark.slow),
        pytest.param("yolov4", (96, 128), marks=pytest.mark.slow),
        pytest.param("yolov4-csp-s-mish", (128, 128), marks=pytest.mark.slow),
        pytest.param("yolov4-csp-x-swish", (128, 128), marks=pytest.mark.slow),
    ],
)
def test_whole_networks(name: str, size: tuple[int, int], oracle_dir: Path, tmp_path: Path) -> None:
    cfg, weights = oracle_dir / "cfg" / f"{name}.cfg", tmp_path / "net.weights"
    make_seeded_weights(oracle_dir, cfg, weights, 5)
    compare(cfg, weights, 8, "onnxruntime", size, ROUNDING)
    weights.unlink()


@pytest.mark.parametrize("name", TRAINED)
def test_trained_networks(name: str, fixtures_dir: Path) -> None:
    cfg = fixtures_dir / "darknet" / TRAINED[name] / f"{name}.cfg"
    compare(cfg, cfg.with_suffix(".weights"), 8, "onnxruntime", (192, 256), ROUNDING)


def test_layers_bear_the_names_of_the_onnx_nodes(tmp_path: Path) -> None:
    body = CONV + "[maxpool]\nsize=2\nstride=1\n[upsample]\nstride=2\n"
    cfg, weights = write(tmp_path, cfg_text(body))
    network = FakeNetwork(fake_trt(8))
    definition = define(cfg, weights, network, network.trt)
    names = [layer.name for layer in network.layers]
    assert max(Counter(names).values()) == 1
    darknet = read_network(cfg)
    with WeightsReader(weights, darknet) as reader:
        proto, heads = to_onnx(darknet, reader)
    helpers = ("Split", "Reshape")
    nodes = {node.name for node in proto.graph.node if node.op_type not in helpers}
    assert nodes - set(names) == {"decode/004_yolo/cells"}
    assert definition.heads == heads


def test_weights_are_kept(tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, cfg_text(CONV))
    network = FakeNetwork(fake_trt(8))
    definition = define(cfg, weights, network, network.trt)
    kept = {id(array) for array in definition.weights}
    given = [
        value.values
        for layer in network.layers
        for value in layer.facts.values()
        if hasattr(value, "values") and isinstance(value.values, np.ndarray)
    ]
    assert given
    assert all(id(array) in kept for array in given)


def test_a_refusal_of_tensorrt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, weights = write(tmp_path, cfg_text(CONV))
    network = FakeNetwork(fake_trt(8))
    monkeypatch.setattr(FakeNetwork, "add_convolution_nd", lambda *_arguments: None)
    with pytest.raises(BuildError, match="000_convolutional/conv: fake_tensorrt 8 refused"):
        define(cfg, weights, network, network.trt)
    monkeypatch.delattr(FakeNetwork, "add_cast")
    network = FakeNetwork(fake_trt(8))
    with pytest.raises(BuildError, match=r"pre/float: fake_tensorrt 8 has no add_cast; 8\.6"):
        define(cfg, weights, network, network.trt)


def test_an_old_tensorrt_without_uint8_is_refused(tmp_path: Path) -> None:
    cfg, weights = write(tmp_path, cfg_text(CONV))
    trt = fake_trt(8)
    del trt.DataType._member_map_["UINT8"]
    with pytest.raises(BuildError, match=r"fake_tensorrt 8 takes no uint8 input"):
        define(cfg, weights, FakeNetwork(trt), trt)


class Rtx:
    """TensorRT for RTX with a log that can be read."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.messages: list[tuple[Any, str]] = []
        messages = self.messages

        class Logger(trt.ILogger):  # type: ignore[misc]
            def log(self, severity: Any, message: str) -> None:
                messages.append((severity, message))

        self.logger = Logger()
        self.builder = trt.Builder(self.logger)
        self._parsers: list[Any] = []

    def network(self) -> Any:
        return self.builder.create_network(0)

    def parse(self, data: bytes) -> Any:
        network = self.network()
        parser = self.trt.OnnxParser(network, self.logger)
        self._parsers.append(parser)
        assert parser.parse(data), [parser.get_error(i) for i in range(parser.num_errors)]
        return network

    def build(self, network: Any) -> int:
        """Size of the engine, in bytes."""
        config, profile = (
            self.builder.create_builder_config(),
            self.builder.create_optimization_profile(),
        )
        extents = tuple(network.get_input(0).shape)[1:]
        profile.set_shape("images", *((n, *extents) for n in (1, 1, 4)))
        config.add_optimization_profile(profile)
        config.num_compute_capabilities = 1
        config.set_compute_capability(self.trt.ComputeCapability.SM86, 0)
        engine = self.builder.build_serialized_network(network, config)
        assert engine is not None, self.messages[-3:]
        return int(engine.nbytes)


@pytest.fixture(scope="module")
def rtx() -> Rtx:
    trt = pytest.importorskip(
        "tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install tensorrt-rtx"
    )
    return Rtx(trt)


def interface(network: Any) -> list[tuple[str, Any, tuple[int, ...]]]:
    tensors = [network.get_input(i) for i in range(network.num_inputs)]
    tensors += [network.get_output(i) for i in range(network.num_outputs)]
    return [(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in tensors]


def kinds(network: Any) -> Counter[str]:
    return Counter(network.get_layer(i).type.name for i in range(network.num_layers))


def check_twins(rtx: Rtx, cfg: Path, weights: Path) -> tuple[int, int]:
    """The API's network and the parser's have the same interface and layers, and build.

    Returns:
        The sizes of both engines in bytes.
    """
    network = rtx.network()
    definition = define(cfg, weights, network, rtx.trt)
    parsed = rtx.parse(import_model(weights, cfg=cfg).proto.SerializeToString())
    assert interface(network) == interface(parsed)
    ours, theirs = kinds(network), kinds(parsed)
    for kind in ("CONVOLUTION", "POOLING", "RESIZE", "SOFTMAX"):
        assert ours[kind] == theirs[kind], kind
    sizes = rtx.build(network), rtx.build(parsed)
    assert definition.weights
    return sizes


@pytest.mark.parametrize(
    "name",
    [
        *("a convolution without batch norm", "groups", "dilation", "shared weights"),
        *("maxpool that keeps the size", "maxpool with a rest", "local_avgpool"),
        *("upsample by three, scaled", "upsample backwards", "reorg", "reorg3d"),
        *("route of groups of several", "shortcut to fewer channels"),
        *("shortcut with softmax weights", "squeeze and excitation", "batchnorm"),
        *("activation mish", "activation swish", "activation selu", "activation hard_mish"),
        *("head two heads", "head yolo, new_coords", "head region", "head region with a floor"),
    ],
)
def test_rtx_builds_it(rtx: Rtx, name: str, tmp_path: Path) -> None:
    check_twins(rtx, *write(tmp_path, NETWORKS[name]))


def test_rtx_builds_a_grey_network(rtx: Rtx, tmp_path: Path) -> None:
    check_twins(rtx, *write(tmp_path, cfg_text(CONV, 8, 6, channels=1)))


def test_rtx_builds_a_trained_network(rtx: Rtx, fixtures_dir: Path) -> None:
    folder = fixtures_dir / "darknet" / "yolov4-tiny"
    ours, theirs = check_twins(rtx, folder / "yolov4-tiny.cfg", folder / "yolov4-tiny.weights")
    assert abs(ours - theirs) < 0.01 * theirs


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_the_fake_has_what_the_real_one_has(module: str) -> None:
    """Attributes, enumerations and methods of the fake exist in TensorRT."""
    trt = pytest.importorskip(module, reason=f"{module} is not installed")
    for kind, attributes in ATTRIBUTES.items():
        for attribute in ("name", *attributes):
            assert hasattr(getattr(trt, kind), attribute), (kind, attribute)
    for name, members in ENUMS.items():
        assert set(members) <= set(getattr(trt, name).__members__)
    methods = [name for name in vars(FakeNetwork) if name.startswith("add_")]
    assert all(hasattr(trt.INetworkDefinition, name) for name in methods)
    assert {"FLOAT", "UINT8"} <= set(trt.DataType.__members__)
    assert callable(trt.Permutation)
    assert trt.Weights(np.ones(3, np.float32)).size == 3


def test_the_comparison_of_both_ways_runs(rtx: Rtx, tmp_path: Path) -> None:
    """``benchmarks/tensorrt_network_api.py`` without a GPU."""
    assert rtx
    cfg, weights = write(tmp_path, cfg_text(CONV + CONV, 32, 32))
    root = Path(__file__).parents[2]
    script = root / "benchmarks" / "tensorrt_network_api.py"
    result = subprocess.run(
        [sys.executable, script, weights, cfg, "--module", "tensorrt_rtx"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root / "src"), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert result.returncode == 0, result.stderr
    assert "| of them CONVOLUTION | 3 | 3 |" in result.stdout
    assert "| of them convolving | 3 | 3 |" in result.stdout
    assert "interface and convolutions: the same" in result.stdout
