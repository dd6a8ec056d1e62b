"""Modules in memory, exported by PyTorch and imported."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from boxwright import backends
from boxwright.errors import ImportFailedError
from boxwright.importers.pytorch import import_torch
from boxwright.model import BOXES, IMAGES, SCORES

torch = pytest.importorskip("torch")
Module: Any = torch.nn.Module

SIDE = 64


class Rows(Module):
    """Decoded boxes and scores in rows, `cxcywh` in pixels: 4 + classes columns of (N, ., A)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Conv2d(3, 16, 3, 2, 1)
        self.norm = torch.nn.BatchNorm2d(16)
        self.norm.running_mean += 0.3
        self.head = torch.nn.Conv2d(16, 7, 3, 2, 1)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: Any) -> Any:
        y = self.head(self.drop(torch.nn.functional.silu(self.norm(self.stem(x)))))
        y = y.flatten(2).sigmoid()
        return torch.cat((y[:, :4] * SIDE, y[:, 4:]), 1)


def check(module: Any, given: Any, exporter: str) -> None:
    model = import_torch(
        given, torch.zeros(1, 3, SIDE, SIDE), head="yolov8", names=["a", "b", "c"], name="mine"
    )
    assert model.card.name == "mine"
    assert model.card.source_format == "pytorch"
    assert model.card.source_files == ()
    assert model.card.class_names == ("a", "b", "c")
    assert model.card.transforms[0].effect == {"exporter": exporter}
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    with torch.no_grad():
        rows = module.eval()(torch.from_numpy(images).permute(0, 3, 1, 2) / 255).numpy()
    with backends.load(model) as runner:
        outputs = runner.infer({IMAGES: images})
    centre, half = rows[:, :2].transpose(0, 2, 1), rows[:, 2:4].transpose(0, 2, 1) / 2
    corners = np.concatenate((centre - half, centre + half), 2)
    np.testing.assert_allclose(outputs[BOXES], corners, rtol=0, atol=1e-3)
    np.testing.assert_allclose(outputs[SCORES], rows[:, 4:].transpose(0, 2, 1), rtol=0, atol=1e-5)


NEW = importlib.util.find_spec("onnxscript") is not None
without = pytest.mark.skipif(not NEW, reason="onnxscript is not installed")


def test_a_module() -> None:
    module = Rows()
    module.train()
    module.stem.eval()
    check(module, module, "torch.export" if NEW else "torchscript")
    assert import_torch(module.train(), torch.zeros(1, 3, SIDE, SIDE), head="yolov8")
    assert module.training, "its mode is put back"


def test_without_the_newer_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    module = Rows()
    check(module, module, "torchscript")


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*is deprecated:DeprecationWarning")
def test_torchscript() -> None:
    module = Rows().eval()
    traced = torch.jit.trace(module, torch.zeros(1, 3, SIDE, SIDE))
    check(module, traced, "torchscript")


@without
def test_an_exported_program() -> None:
    module = Rows().eval()
    shapes = ({0: torch.export.Dim("N")},)
    program = torch.export.export(module, (torch.zeros(2, 3, SIDE, SIDE),), dynamic_shapes=shapes)
    check(module, program, "torch.export")


def test_what_is_refused() -> None:
    example = torch.zeros(1, 3, SIDE, SIDE)
    wrong: Any
    for wrong in ("net.pt", None, torch.zeros(3, SIDE, SIDE), torch.zeros(1, 5, SIDE, SIDE)):
        with pytest.raises(ImportFailedError, match=r"example must be a tensor \(1, 3, H, W\)"):
            import_torch(Rows(), wrong)
    wrong = "net.pt"
    with pytest.raises(ImportFailedError, match=r"expected an nn\.Module or an exported program"):
        import_torch(wrong, example)

    class Broken(Module):
        def forward(self, x: Any) -> Any:
            raise RuntimeError("first line\nsecond line")

    with pytest.raises(ImportFailedError, match="PyTorch cannot export the module: ") as caught:
        import_torch(Broken(), example)
    assert "\n" not in str(caught.value)
    with pytest.raises(ImportFailedError, match="the exported module"):
        import_torch(torch.nn.Conv2d(3, 2, 1), example)
