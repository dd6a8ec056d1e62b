"""PyTorch computes what the graph says, layer by layer; needs PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from boxwright import backends
from boxwright.darknet.network import read_network
from boxwright.errors import BackendUnavailableError, InputError, MissingExtraError
from boxwright.evaluate.torch_peer import TorchPeer
from boxwright.importers import import_model
from tests.darknet.cfgs import random_weights, write_weights
from tests.models import make_images, make_model
from tests.oracle.test_layers import NETWORKS


def test_without_pytorch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"boxwright\[torch\]"):
        TorchPeer(make_model(), "cpu", 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_what_onnx_runtime_computes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(NETWORKS[name])
    write_weights(weights, random_weights(read_network(cfg)))
    model = import_model(weights, cfg=cfg)
    height, width = model.card.input_size
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    try:
        peer = TorchPeer(model, "cpu", 1)
    except InputError as error:
        assert "not known here" in str(error)  # noqa: PT017 - refused, never wrong
        return
    with backends.load(model) as runner, peer:
        expected, got = runner.infer({"images": images}), peer.tensors(peer.network(images))
    for key in ("boxes", "scores"):
        scale = max(float(np.abs(expected[key]).max()), 1.0)
        np.testing.assert_allclose(got[key], expected[key], atol=2e-5 * scale)


def test_what_it_cannot_do() -> None:
    torch = pytest.importorskip("torch")
    model = make_model()
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailableError, match="sees no GPU"):
            TorchPeer(model, "cuda", 1)
    model.proto.graph.node[1].op_type = "Erf"
    with pytest.raises(InputError, match="operator Erf is not known"):
        TorchPeer(model, "cpu", 1)


def test_its_facts() -> None:
    pytest.importorskip("torch")
    model = make_model()
    with TorchPeer(model, "cpu", 1) as peer:
        assert (peer.precision, peer.threads, peer.fixed_batch) == ("fp32", 1, None)
        assert peer.backend.startswith("torch ")
        assert peer.device_name == "cpu"
        assert peer.network(make_images(model, 3))["boxes"].shape[0] == 3


def test_it_gives_landmarks() -> None:
    pytest.importorskip("torch")
    model = make_model(landmarks=True)
    images = make_images(model, 2)
    with TorchPeer(model, "cpu", 1) as peer:
        got = peer.tensors(peer.network(images))
    assert got["landmarks"].shape == (2, 128, 2, 2)
    assert np.array_equal(got["landmarks"].reshape(2, 128, 4), got["boxes"])
