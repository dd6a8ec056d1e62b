"""Small networks of random weights, saved by PyTorch as the programs that train them do."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.importers.pytorch import torch_yolo as yolo

NAMES = {0: "cat", 1: "yellow dog", 2: "bird"}


def make(cls: Any, **attributes: Any) -> Any:
    """A module with these attributes and children, whatever its constructor would take."""
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


def conv(
    c1: int, c2: int, k: int = 1, s: int = 1, act: Any = None, g: int = 1, cls: Any = yolo.Conv
) -> Any:
    norm = nn.BatchNorm2d(c2, eps=1e-3)
    for values, low, high in (
        (norm.weight.data, 0.5, 1.5),
        (norm.bias.data, -0.5, 0.5),
        (norm.running_mean, -0.5, 0.5),
        (norm.running_var, 0.3, 2.0),
    ):
        values.uniform_(low, high)
    layer = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
    # So that what one layer makes is felt by the last.
    layer.weight.data.normal_(0, (2 / layer.weight[0].numel()) ** 0.5)
    return make(cls, conv=layer, bn=norm, act=nn.SiLU() if act is None else act)


def bottleneck(c: int, add: bool = True, k: int = 1) -> Any:
    return make(yolo.Bottleneck, cv1=conv(c, c, k), cv2=conv(c, c, 3), add=add)


def c3(c1: int, c2: int, inner: list[Any] | None = None, cls: Any = yolo.C3) -> Any:
    c = c2 // 2
    blocks = nn.Sequential(*(inner or [bottleneck(c), bottleneck(c, add=False)]))
    return make(cls, cv1=conv(c1, c), cv2=conv(c1, c), cv3=conv(2 * c, c2), m=blocks)


def csp(c1: int, c2: int) -> Any:
    c = c2 // 2
    norm = conv(1, 2 * c).bn
    return make(
        yolo.BottleneckCSP,
        cv1=conv(c1, c),
        cv2=nn.Conv2d(c1, c, 1, bias=False),
        cv3=nn.Conv2d(c, c, 1, bias=False),
        cv4=conv(2 * c, c2),
        bn=norm,
        act=nn.LeakyReLU(0.1),
        m=nn.Sequential(bottleneck(c)),
    )


def ghost(c1: int, c2: int, k: int = 1, act: Any = None) -> Any:
    return make(
        yolo.GhostConv, cv1=conv(c1, c2 // 2, k, act=act), cv2=conv(c2 // 2, c2 // 2, 5, act=act)
    )


def ghost_bottleneck(c: int) -> Any:
    inner = nn.Sequential(ghost(c, c), nn.Identity(), ghost(c, c, act=nn.Identity()))
    return make(yolo.GhostBottleneck, conv=inner, shortcut=nn.Sequential())


def spp(c1: int, c2: int) -> Any:
    pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))
    return make(yolo.SPP, cv1=conv(c1, c1 // 2), cv2=conv(2 * c1, c2), m=pools)


def sppf(c1: int, c2: int) -> Any:
    pool = nn.MaxPool2d(5, 1, 2)
    return make(yolo.SPPF, cv1=conv(c1, c1 // 2), cv2=conv(2 * c1, c2), m=pool)


def concat() -> Any:
    return make(yolo.Concat, d=1)


def c2f(c1: int, c2: int, inner: list[Any], cls: Any = yolo.C2f) -> Any:
    c = c2 // 2
    last = conv((2 + len(inner)) * c, c2)
    return make(cls, c=c, cv1=conv(c1, 2 * c), cv2=last, m=nn.ModuleList(inner))


def c2psa(c: int, heads: int = 2) -> Any:
    half, plain = c // 2, nn.Identity()
    depth = half // heads
    key = depth // 2
    attention = make(
        yolo.Attention,
        num_heads=heads,
        head_dim=depth,
        key_dim=key,
        scale=key**-0.5,
        qkv=conv(half, heads * (2 * key + depth), act=plain),
        proj=conv(half, half, act=plain),
        pe=conv(half, half, 3, g=half, act=plain),
    )
    ffn = nn.Sequential(conv(half, 2 * half), conv(2 * half, half, act=plain))
    block = make(yolo.PSABlock, attn=attention, ffn=ffn, add=True)
    m = nn.Sequential(block)
    return make(yolo.C2PSA, c=half, cv1=conv(c, c), cv2=conv(c, c), m=m)


def anchored_head(channels: list[int], strides: list[int], classes: int = 3) -> Any:
    count = len(channels)
    head = make(
        yolo.Detect,
        nc=classes,
        no=5 + classes,
        nl=count,
        na=2,
        grid=[torch.empty(0)] * count,
        anchor_grid=[torch.empty(0)] * count,
        m=nn.ModuleList(nn.Conv2d(c, 2 * (5 + classes), 1) for c in channels),
        stride=torch.tensor(strides).float(),
        inplace=True,
    )
    head.register_buffer("anchors", torch.rand(count, 2, 2) * 3 + 0.5)
    return head


def distance_head(channels: list[int], strides: list[int], classes: int = 3, bins: int = 16) -> Any:
    dfl = make(yolo.DFL, c1=bins, conv=nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False))
    dfl.conv.weight.data[:] = torch.arange(bins).view(1, bins, 1, 1)
    sides, scores = [], []
    for c in channels:
        sides.append(nn.Sequential(conv(c, 8, 3), nn.Conv2d(8, 4 * bins, 1)))
        deep = nn.Sequential(conv(c, c, 3, g=c, cls=yolo.DWConv), conv(c, 8))
        scores.append(nn.Sequential(deep, nn.Conv2d(8, classes, 1)))
    return make(
        yolo.Detect,
        nc=classes,
        nl=len(channels),
        reg_max=bins,
        no=classes + 4 * bins,
        stride=torch.tensor(strides).float(),
        cv2=nn.ModuleList(sides),
        cv3=nn.ModuleList(scores),
        dfl=dfl,
    )


def network(layers: list[tuple[Any, Any]], cls: Any = yolo.DetectionModel, **extra: Any) -> Any:
    """A network of ``(where it takes its input, layer)``."""
    for i, (source, layer) in enumerate(layers):
        layer.i, layer.f, layer.type, layer.np = i, source, type(layer).__name__, 0
    extra.setdefault("names", NAMES)
    model = make(cls, model=nn.Sequential(*(layer for _, layer in layers)), **extra)
    for module in model.modules():
        # As trained networks have them: exporters and fine-tuning leave traces.
        module.training = False
    return model


def yolov5(*, early: bool = False, act: Any = None, **extra: Any) -> Any:
    """As YOLOv5, three layers deep; `early` with the blocks of its first versions."""
    stem: Any = make(yolo.Focus, conv=conv(12, 8, 3, act=act)) if early else conv(3, 8, 6, 2, act)
    if not early:
        stem.conv.padding = (2, 2)
    layers = [
        (-1, stem),
        (-1, conv(8, 16, 3, 2)),
        (-1, csp(16, 16) if early else c3(16, 16)),
        (-1, conv(16, 32, 3, 2)),
        (-1, c3(32, 32, [ghost_bottleneck(16)])),
        (-1, spp(32, 32) if early else sppf(32, 32)),
        (-1, conv(32, 16)),
        (-1, nn.Upsample(None, 2, "nearest")),
        ([-1, 2], concat()),
        (-1, c3(32, 16)),
        ([9, 6], anchored_head([16, 16], [4, 8])),
    ]
    return network(layers, yolo.Model if early else yolo.DetectionModel, **extra)


def yolov8(**extra: Any) -> Any:
    """As YOLOv8 and 11, with the blocks of both."""
    layers = [
        (-1, conv(3, 8, 3, 2)),
        (-1, conv(8, 16, 3, 2)),
        (-1, c2f(16, 16, [bottleneck(8, k=3)])),
        (-1, conv(16, 32, 3, 2)),
        (-1, c2f(32, 32, [c3(16, 16, cls=yolo.C3k), bottleneck(16)], yolo.C3k2)),
        # Before the pooling, which leaves positions little to tell each other.
        (-1, c2psa(32)),
        (-1, sppf(32, 32)),
        (-1, nn.Upsample(None, 2, "nearest")),
        ([-1, 2], concat()),
        (-1, c2f(48, 16, [bottleneck(8, add=False)])),
        ([9, 6], distance_head([16, 32], [4, 8])),
    ]
    return network(layers, task="detect", **extra)


def save(
    path: Path, checkpoint: Any, generation: str = "v5", *, legacy: bool = False, half: bool = False
) -> Path:
    """Write a checkpoint as its program would; returns its path."""
    with yolo.modules(generation), warnings.catch_warnings():
        if half:
            checkpoint["model"].half()
        # The older form wants the source code of each class, which classes made here lack.
        warnings.simplefilter("ignore")
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    return path
