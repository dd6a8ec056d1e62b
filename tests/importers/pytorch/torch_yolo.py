"""YOLO networks in PyTorch, written from the papers for these tests only.

:func:`load` lets PyTorch itself unpickle a checkpoint into the classes below, so that
neither our reader nor our graph has a part in what the tests compare with. It runs the
pickle, which the tests do with files they know.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Conv(nn.Module):
    def forward(self, x: Any) -> Any:
        return self.act(self.bn(self.conv(x)))


class DWConv(Conv):
    pass


class Focus(nn.Module):
    def forward(self, x: Any) -> Any:
        corners = [x[..., dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
        return self.conv(torch.cat(corners, 1))


class Bottleneck(nn.Module):
    def forward(self, x: Any) -> Any:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    def forward(self, x: Any) -> Any:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3k(C3):
    pass


class BottleneckCSP(nn.Module):
    def forward(self, x: Any) -> Any:
        both = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1)
        return self.cv4(self.act(self.bn(both)))


class SPP(nn.Module):
    def forward(self, x: Any) -> Any:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    def forward(self, x: Any) -> Any:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class GhostConv(nn.Module):
    def forward(self, x: Any) -> Any:
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


class GhostBottleneck(nn.Module):
    def forward(self, x: Any) -> Any:
        return self.conv(x) + self.shortcut(x)


class C2f(nn.Module):
    def forward(self, x: Any) -> Any:
        y = self.cv1(x)
        parts = [y[:, : self.c], y[:, self.c :]]
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class C3k2(C2f):
    pass


class Attention(nn.Module):
    def forward(self, x: Any) -> Any:
        images, _, height, width = x.shape
        qkv = self.qkv(x).reshape(images, self.num_heads, -1, height * width)
        q, k = qkv[:, :, : self.key_dim], qkv[:, :, self.key_dim : 2 * self.key_dim]
        v = qkv[:, :, 2 * self.key_dim :]
        weights = torch.einsum("nhci,nhcj->nhij", q, k).mul(self.key_dim**-0.5).softmax(-1)
        mixed = torch.einsum("nhij,nhcj->nhci", weights, v).reshape(x.shape)
        return self.proj(mixed + self.pe(v.reshape(x.shape)))


class PSABlock(nn.Module):
    def forward(self, x: Any) -> Any:
        if not self.add:
            return self.ffn(self.attn(x))
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    def forward(self, x: Any) -> Any:
        y = self.cv1(x)
        return self.cv2(torch.cat((y[:, : self.c], self.m(y[:, self.c :])), 1))


class Concat(nn.Module):
    def forward(self, parts: Any) -> Any:
        return torch.cat(parts, self.d)


class DFL(nn.Module):
    pass


class Detect(nn.Module):
    """Candidates in rows, boxes `xyxy` in pixels, and the raw maps."""

    def forward(self, levels: list[Any]) -> tuple[Any, Any, list[Any]]:
        decode = self._anchored if hasattr(self, "m") else self._distances
        boxes, scores, raw = zip(*map(decode, range(self.nl), levels), strict=True)
        return torch.cat(boxes, 1), torch.cat(scores, 1), [x for maps in raw for x in maps]

    def _cells(self, x: Any) -> Any:
        y, x = torch.meshgrid(*map(torch.arange, x.shape[-2:]), indexing="ij")
        return torch.stack((x, y), -1)

    def _anchored(self, i: int, x: Any) -> tuple[Any, Any, list[Any]]:
        raw = self.m[i](x)
        images, _, height, width = raw.shape
        rows = raw.reshape(images, self.na, 5 + self.nc, height, width).permute(0, 1, 3, 4, 2)
        y = rows.sigmoid()
        centre = (y[..., 0:2] * 2 - 0.5 + self._cells(raw)) * self.stride[i]
        size = (y[..., 2:4] * 2) ** 2 * (self.anchors[i] * self.stride[i]).view(1, -1, 1, 1, 2)
        boxes = torch.cat((centre - size / 2, centre + size / 2), -1).reshape(images, -1, 4)
        scores = y[..., 4:5] * y[..., 5:]
        return boxes, scores.reshape(images, -1, self.nc), [raw]

    def _distances(self, i: int, x: Any) -> tuple[Any, Any, list[Any]]:
        sides, classes = self.cv2[i](x), self.cv3[i](x)
        images = len(x)
        bins = sides.reshape(images, 4, self.reg_max, -1).softmax(2)
        distance = (bins * torch.arange(self.reg_max).view(1, 1, -1, 1)).sum(2).transpose(1, 2)
        centre = self._cells(sides).reshape(1, -1, 2) + 0.5
        boxes = torch.cat((centre - distance[..., :2], centre + distance[..., 2:]), -1)
        scores = classes.reshape(images, self.nc, -1).transpose(1, 2).sigmoid()
        return boxes * self.stride[i], scores, [sides, classes]


class Model(nn.Module):
    def forward(self, x: Any) -> Any:
        outputs: list[Any] = []
        for layer in self.model:
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            taken = [x if s == -1 else outputs[s] for s in sources]
            x = layer(taken[0] if isinstance(layer.f, int) else taken)
            outputs.append(x)
        return x


class DetectionModel(Model):
    pass


class SegmentationModel(Model):
    pass


class Segment(Detect):
    pass


_CLASSES = {
    value.__name__: value
    for value in list(globals().values())
    if isinstance(value, type) and issubclass(value, nn.Module) and value is not nn.Module
}
_V5 = {"models.yolo": ("Model", "DetectionModel", "SegmentationModel", "Detect", "Segment")}
_V8 = {
    "ultralytics.nn.tasks": ("DetectionModel", "SegmentationModel"),
    "ultralytics.nn.modules.head": ("Detect", "Segment"),
    "ultralytics.nn.modules.conv": ("Conv", "DWConv", "Concat", "Focus", "GhostConv"),
}


@contextlib.contextmanager
def modules(generation: str) -> Iterator[None]:
    """Pretend that the program which defines these classes is installed.

    Args:
        generation: ``v5`` or ``v8``: under which names.
    """
    homes = _V5 if generation == "v5" else _V8
    rest = "models.common" if generation == "v5" else "ultralytics.nn.modules.block"
    placed = {name: home for home, names in homes.items() for name in names}
    before = {name: (c.__module__, c.__qualname__) for name, c in _CLASSES.items()}
    added: set[str] = set()
    try:
        for name, cls in _CLASSES.items():
            home = placed.get(name, rest)
            for i in range(1, home.count(".") + 2):
                package = ".".join(home.split(".")[:i])
                if package not in sys.modules:
                    sys.modules[package] = types.ModuleType(package)
                    added.add(package)
            setattr(sys.modules[home], name, cls)
            cls.__module__ = home
        yield
    finally:
        for name in added:
            del sys.modules[name]
        for name, (module, _) in before.items():
            _CLASSES[name].__module__ = module


def load(path: Path, generation: str = "v5") -> Any:
    """The network of a checkpoint, run by PyTorch, in float32."""
    with modules(generation):
        checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    return (checkpoint.get("ema") or checkpoint["model"]).float().eval()
