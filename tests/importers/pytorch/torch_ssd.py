"""SSD in PyTorch, written for these tests from the papers, under the published names.

Only the names of modules, and with them those of tensors, are NVIDIA's and torchvision's;
the mathematics is in loops and functions of torch.nn.functional.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812


class Ssd(nn.Module):
    """What all have in common; subclasses make feature maps and say how they are predicted."""

    side = 300
    mean: Any = (0.485, 0.456, 0.406)
    std: Any = (0.229, 0.224, 0.225)

    def priors(self, maps: list[Any], scales: Any, steps: Any) -> list[list[Any]]:
        """For each level and cell the prior boxes, as fractions."""
        levels = []
        for i, x in enumerate(maps):
            s, rows = scales[i], x.shape[2]
            shapes = [(s, s), (math.sqrt(s * scales[i + 1]),) * 2]
            for ratio in self.ratios[i]:
                shapes += [(s * ratio**0.5, s / ratio**0.5), (s / ratio**0.5, s * ratio**0.5)]
            step = steps[i] / self.side if steps else 1 / rows
            levels.append(
                [
                    [((c + 0.5) * step, (r + 0.5) * step, min(w, 1), min(h, 1)) for w, h in shapes]
                    for r, c in itertools.product(range(rows), range(rows))
                ]
            )
        return levels

    def decode(self, boxes: Any, priors: list[Any], limit: float = math.inf) -> Any:
        p = torch.tensor(priors, dtype=torch.float64)
        centre = p[:, :2] + boxes[..., :2] * 0.1 * p[:, 2:]
        size = (boxes[..., 2:] * 0.2).clamp(max=limit).exp() * p[:, 2:]
        return torch.cat((centre - size / 2, centre + size / 2), -1) * self.side

    def normalised(self, images: Any) -> Any:
        kind = next(self.parameters()).dtype
        planes = torch.from_numpy(images).permute(0, 3, 1, 2).to(kind) / 255
        mean, std = (torch.tensor(v, dtype=kind).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (planes - mean) / std


class TorchvisionSsd(Ssd):
    steps: Any = None

    def forward(self, images: Any) -> tuple[Any, Any]:
        maps = self.backbone(self.normalised(images))
        boxes: list[Any] = []
        scores: list[Any] = []
        for i, x in enumerate(maps):
            count = 2 + 2 * len(self.ratios[i])
            for head, found in (
                (self.head.regression_head, boxes),
                (self.head.classification_head, scores),
            ):
                y = head.module_list[i](x)
                split = y.unflatten(1, (count, -1)).permute(0, 3, 4, 1, 2)
                found.append(split.flatten(1, 3))
        levels = self.priors(maps, self.scales, self.steps)
        flat = [box for level in levels for cell in level for box in cell]
        decoded = self.decode(torch.cat(boxes, 1), flat, math.log(1000 / 16))
        return decoded, torch.cat(scores, 1).softmax(-1)[..., 1:]

    def add_heads(self, channels: list[int], classes: int, block: Any) -> None:
        self.head = nn.Module()
        for name, values in (("classification_head", classes + 1), ("regression_head", 4)):
            counts = [2 + 2 * len(ratios) for ratios in self.ratios]
            head = nn.Module()
            head.module_list = nn.ModuleList(
                block(c, n * values) for c, n in zip(channels, counts, strict=True)
            )
            setattr(self.head, name, head)


class VggBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = []
        before = 3
        for c, count in ((64, 2), (128, 2), (256, 3), (512, 3)):
            if layers:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=c == 512))
            for _ in range(count):
                layers += [nn.Conv2d(before, c, 3, padding=1), nn.ReLU()]
                before = c
        self.features = nn.Sequential(*layers)
        self.scale_weight = nn.Parameter(torch.rand(512) * 20)
        last: list[Any] = [nn.MaxPool2d(2, 2)]
        for _ in range(3):
            last += [nn.Conv2d(512, 512, 3, padding=1), nn.ReLU()]
        dense = [nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.ReLU()]
        dense += [nn.Conv2d(1024, 1024, 1), nn.ReLU()]
        extra = [nn.Sequential(*last, nn.Sequential(*dense))]
        for c1, c2, c3, s, p in (
            *((1024, 256, 512, 2, 1), (512, 128, 256, 2, 1)),
            *((256, 128, 256, 1, 0), (256, 128, 256, 1, 0)),
        ):
            first, second = nn.Conv2d(c1, c2, 1), nn.Conv2d(c2, c3, 3, s, p)
            extra.append(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()))
        self.extra = nn.ModuleList(extra)

    def forward(self, x: Any) -> list[Any]:
        x = self.features(x)
        maps = [F.normalize(x) * self.scale_weight.view(1, -1, 1, 1)]
        for block in self.extra:
            x = block(x)
            maps.append(x)
        return maps


class Ssd300Vgg(TorchvisionSsd):
    mean = (0.48235, 0.45882, 0.40784)
    std = (1 / 255,) * 3
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    steps = (8, 16, 32, 64, 100, 300)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = VggBackbone()
        channels = [512, 1024, 512, 256, 256, 256]
        self.add_heads(channels, classes, lambda c, n: nn.Conv2d(c, n, 3, padding=1))


def conv_norm(c1: int, c2: int, k: int, s: int = 1, g: int = 1, act: Any = None) -> Any:
    conv = nn.Conv2d(c1, c2, k, s, k // 2, groups=g, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c2, eps=1e-3), act or nn.Identity())


class Excitation(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(c, c // 4, 1)
        self.fc2 = nn.Conv2d(c // 4, c, 1)

    def forward(self, x: Any) -> Any:
        y = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).clamp(min=0))
        return x * (y / 6 + 0.5).clamp(0, 1)


class Inverted(nn.Module):
    def __init__(self, c1: int, wide: int, c2: int, k: int, s: int, se: bool, act: Any) -> None:
        super().__init__()
        parts = [conv_norm(c1, wide, 1, act=act())] if wide != c1 else []
        parts.append(conv_norm(wide, wide, k, s, wide, act()))
        parts += [Excitation(wide)] if se else []
        parts.append(conv_norm(wide, c2, 1))
        self.block = nn.Sequential(*parts)
        self.adds = s == 1 and c1 == c2

    def forward(self, x: Any) -> Any:
        return x + self.block(x) if self.adds else self.block(x)


class MobileBackbone(nn.Module):
    """Howard et al. 2019, table 1, its last stages halved."""

    table = (
        *((16, 16, 3, 1, 0, 0), (64, 24, 3, 2, 0, 0), (72, 24, 3, 1, 0, 0), (72, 40, 5, 2, 1, 0)),
        *((120, 40, 5, 1, 1, 0), (120, 40, 5, 1, 1, 0), (240, 80, 3, 2, 0, 1)),
        *((200, 80, 3, 1, 0, 1), (184, 80, 3, 1, 0, 1), (184, 80, 3, 1, 0, 1)),
        *((480, 112, 3, 1, 1, 1), (672, 112, 3, 1, 1, 1), (672, 80, 5, 2, 1, 1)),
        *((480, 80, 5, 1, 1, 1), (480, 80, 5, 1, 1, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = [conv_norm(3, 16, 3, 2, act=nn.Hardswish())]
        before = 16
        for wide, c, k, s, se, swish in self.table:
            act = nn.Hardswish if swish else nn.ReLU
            layers.append(Inverted(before, wide, c, k, s, bool(se), act))
            before = c
        layers.append(conv_norm(80, 480, 1, act=nn.Hardswish()))
        cut = layers[13].block
        # A slice of a Sequential keeps the numbers of its parts.
        halves = [*layers[:13], cut[0]], [cut[1:], *layers[14:]]
        self.features = nn.Sequential(*(nn.Sequential(*half) for half in halves))
        self.extra = nn.ModuleList(
            nn.Sequential(
                conv_norm(c1, c2 // 2, 1, act=nn.ReLU6()),
                conv_norm(c2 // 2, c2 // 2, 3, 2, c2 // 2, nn.ReLU6()),
                conv_norm(c2 // 2, c2, 1, act=nn.ReLU6()),
            )
            for c1, c2 in ((480, 512), (512, 256), (256, 256), (256, 128))
        )

    def forward(self, x: Any) -> list[Any]:
        maps = []
        for block in (*self.features, *self.extra):
            x = block(x)
            maps.append(x)
        return maps


class SsdLite(TorchvisionSsd):
    side = 320
    mean = std = (0.5, 0.5, 0.5)
    ratios = ((2, 3),) * 6
    scales = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0)

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = MobileBackbone()

        def block(c: int, n: int) -> Any:
            return nn.Sequential(conv_norm(c, c, 3, 1, c, nn.ReLU6()), nn.Conv2d(c, n, 1))

        self.add_heads([672, 480, 512, 256, 256, 128], classes, block)


class Residual(nn.Module):
    def __init__(self, c1: int, c: int, stride: int, deep: bool) -> None:
        super().__init__()
        c2 = 4 * c if deep else c
        self.conv1 = nn.Conv2d(c1, c, 1 if deep else 3, 1 if deep else stride, 0 if deep else 1)
        self.conv1.bias = None
        self.bn1 = nn.BatchNorm2d(c)
        self.conv2 = nn.Conv2d(c, c, 3, stride if deep else 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c)
        if deep:
            self.conv3 = nn.Conv2d(c, c2, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(c2)
        if stride > 1 or c1 != c2:
            down = nn.Conv2d(c1, c2, 1, stride, bias=False)
            self.downsample = nn.Sequential(down, nn.BatchNorm2d(c2))

    def forward(self, x: Any) -> Any:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(y.relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class NvidiaSsd(Ssd):
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    scales = tuple(s / 300 for s in (21, 45, 99, 153, 207, 261, 315))

    def __init__(self, classes: int, deep: bool = True) -> None:
        super().__init__()
        stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
        stages, before = [], 64
        for c, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 1)):
            blocks = []
            for i in range(count if deep else 2):
                blocks.append(Residual(before, c, stride if i == 0 else 1, deep))
                before = 4 * c if deep else c
            stages.append(nn.Sequential(*blocks))
        self.feature_extractor = nn.Module()
        self.feature_extractor.feature_extractor = nn.Sequential(
            *stem, nn.MaxPool2d(3, 2, 1), *stages
        )
        channels = [before, 512, 512, 256, 256, 256]
        self.additional_blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(c1, c, 1, bias=False), nn.BatchNorm2d(c), nn.ReLU()),
                nn.Conv2d(c, c2, 3, 2 if i < 3 else 1, 1 if i < 3 else 0, bias=False),
                *(nn.BatchNorm2d(c2), nn.ReLU()),
            )
            for i, (c1, c2, c) in enumerate(
                zip(channels[:-1], channels[1:], (256, 256, 128, 128, 128), strict=True)
            )
        )
        counts = [2 + 2 * len(ratios) for ratios in self.ratios]
        for name, values in (("loc", 4), ("conf", classes + 1)):
            heads = (
                nn.Conv2d(c, n * values, 3, padding=1)
                for c, n in zip(channels, counts, strict=True)
            )
            setattr(self, name, nn.ModuleList(heads))

    def forward(self, images: Any) -> tuple[Any, Any]:
        x = self.feature_extractor.feature_extractor(self.normalised(images))
        maps = [x]
        for block in self.additional_blocks:
            maps.append(block(maps[-1]))
        pairs = zip(maps, self.loc, self.conf, strict=True)
        raw = [(loc(x).reshape(len(x), 4, -1), conf(x), x) for x, loc, conf in pairs]
        boxes = torch.cat([y for y, _, _ in raw], 2).transpose(1, 2)
        classes = self.conf[0].out_channels // 4
        scores = torch.cat([y.reshape(len(y), classes, -1) for _, y, _ in raw], 2)
        levels = self.priors(maps, self.scales, (8, 16, 32, 64, 100, 300))
        flat = [cell[k] for level in levels for k in range(len(level[0])) for cell in level]
        return self.decode(boxes, flat), scores.transpose(1, 2).softmax(-1)[..., 1:]
