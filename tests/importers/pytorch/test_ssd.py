"""SSD from state dicts, of random weights, against PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from boxwright import backends
from boxwright.errors import ImportFailedError, WeightsError
from boxwright.importers import import_model
from boxwright.model import BOXES, IMAGES, SCORES

torch = pytest.importorskip("torch")

from tests.importers.pytorch import torch_ssd  # noqa: E402

NETWORKS = {
    "ssd300_resnet": (torch_ssd.NvidiaSsd, 8732),
    "ssd300_vgg16": (torch_ssd.Ssd300Vgg, 8732),
    "ssdlite320_mobilenet_v3_large": (torch_ssd.SsdLite, 3234),
}

# PyTorch in double precision, we in single; boxes reach 320 pixels.
BOX_TOLERANCE = 5e-3
SCORE_TOLERANCE = 2e-5


def randomise(network: Any, *, exact: bool = True) -> Any:
    """Weights that keep every layer's values of about one size, so that nothing vanishes.

    Unless `exact`, in float32 throughout, which takes a fraction of the time.
    """
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (1.7 / fan) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.3, 0.3, generator=generator)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.7, 1.3, generator=generator)
            module.bias.data.uniform_(-0.2, 0.2, generator=generator)
            module.running_mean.uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.6, 1.4, generator=generator)
    network.eval()
    for name, module in network.named_modules():
        head = name.startswith(("loc.", "conf.", "head.")) and isinstance(module, torch.nn.Conv2d)
        if head and module.groups == 1:
            module.register_forward_hook(_even)
    with torch.no_grad():
        network = network.double() if exact else network
        network(np.random.default_rng(1).integers(0, 256, (1, *[network.side] * 2, 3)))
    for module in network.modules():
        module._forward_hooks.clear()
    return network.float()


def _even(module: Any, inputs: Any, output: Any) -> Any:
    """Let raw boxes and classes have a deviation of 1: of more, boxes become enormous."""
    deviation = output.std()
    module.weight.data /= deviation
    module.bias.data /= deviation
    return output / deviation


def compare(path: Path, network: Any, **options: Any) -> Any:
    model = import_model(path, **options)
    side = network.side
    images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    with torch.no_grad():
        boxes, scores = network.double()(images)
    with backends.load(model) as runner:
        outputs = runner.infer({IMAGES: images})
    np.testing.assert_allclose(outputs[BOXES], boxes.numpy(), rtol=1e-5, atol=BOX_TOLERANCE)
    np.testing.assert_allclose(outputs[SCORES], scores.numpy(), rtol=0, atol=SCORE_TOLERANCE)
    # A network whose scores are all alike would agree with anything.
    assert float(np.std(outputs[SCORES])) > 1e-3
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_published_networks(tmp_path: Path, name: str) -> None:
    make, rows = NETWORKS[name]
    network = randomise(make(5))
    path = tmp_path / "net.pth"
    torch.save(network.state_dict(), path)
    model = compare(path, network, names=list("abcde"))
    assert model.card.family == name
    assert model.card.resize == "stretch"
    assert model.card.heads[0].rows == rows


def test_nvidia_with_a_small_resnet_saved_in_training(tmp_path: Path) -> None:
    network = randomise(torch_ssd.NvidiaSsd(3, deep=False))
    # Apex and data-parallel training put names in front; the state dict is one of several.
    state = {f"module.1.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path / "net.pt"
    torch.save({"epoch": 1, "model": state, "optimizer": {}}, path)
    compare(path, network)


def safetensors(path: Path, state: dict[str, Any]) -> Path:
    header, data = {}, b""
    for name, value in state.items():
        array = value.numpy()
        kind = {"float32": "F32", "float16": "F16", "int64": "I64"}[str(array.dtype)]
        place = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        data += array.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_safetensors(tmp_path: Path) -> None:
    network = randomise(torch_ssd.SsdLite(2))
    path = safetensors(tmp_path / "net.safetensors", network.state_dict())
    model = compare(path, network, names=["a", "b"])
    path = safetensors(path, {k: v.half() for k, v in network.state_dict().items()})
    assert import_model(path).card.family == model.card.family


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    state = dict(randomise(torch_ssd.SsdLite(2)).state_dict())
    key = "backbone.features.0.2.block.1.0.weight"

    def refused(changed: dict[str, Any], **options: Any) -> str:
        torch.save(changed, path)
        with pytest.raises(ImportFailedError) as caught:
            import_model(path, **options)
        return str(caught.value)

    assert "ssdlite320_mobilenet_v3_large takes 320x320" in refused(state, size=300)
    assert "expected 2 class names" in refused(state, names=["a"])
    assert f"{key}: it is missing" in refused({k: v for k, v in state.items() if k != key})
    assert "extra: it belongs to no layer known here" in refused({**state, "extra": torch.ones(1)})
    assert "does not fit" in refused({**state, key: torch.ones(64, 3, 3, 3)})
    assert "no numbers" in refused({**state, key: state[key] * np.nan})
    assert "names are not those of an SSD" in refused({"a.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "should take 8 bytes"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}, "does not follow"),
        ({"a": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 8]}}, "not described"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "not described"),
        ({"a": {"dtype": "U9", "shape": [2], "data_offsets": [0, 8]}}, "not described"),
        ({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, "not described"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0]}}, "not described"),
        ({"a": 3}, "not described"),
        ({}, "take 0 bytes and it has 8"),
    ],
)
def test_safetensors_that_lie(tmp_path: Path, edit: Any, reason: str) -> None:
    path = tmp_path / "net.safetensors"
    text = json.dumps(edit).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(WeightsError, match=reason):
        import_model(path, format="pytorch")
