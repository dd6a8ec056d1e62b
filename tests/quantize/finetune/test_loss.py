"""What counts as how far off; needs PyTorch."""

from __future__ import annotations

from typing import Any

import pytest

from boxwright.quantize.finetune.loss import Loss

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture
def answers() -> list[Any]:
    """A head whose channels are in very different numbers; boxes; scores."""
    torch.manual_seed(0)
    head = torch.randn(2, 3, 8, 8) * torch.tensor([4.0, 10.0, 3.0]).reshape(1, 3, 1, 1)
    low = torch.rand(2, 50, 2) * 100
    boxes = torch.cat([low, low + 30 + torch.rand(2, 50, 2) * 40], -1)
    return [head, boxes, torch.rand(2, 50, 4) ** 4]


def changed(answers: list[Any], at: int, value: Any) -> list[Any]:
    return [value if number == at else item for number, item in enumerate(answers)]


def test_the_same_is_nothing(answers: list[Any]) -> None:
    loss = Loss.of(torch, [answers], detections=True)
    assert float(loss(answers, answers)) == 0


def test_where_nothing_is_left_of_a_head_it_is_one(answers: list[Any]) -> None:
    head = answers[:1]
    loss = Loss.of(torch, [head], detections=False)
    means = head[0].mean(dim=(0, 2, 3), keepdim=True).expand_as(head[0])
    assert float(loss([means], head)) == pytest.approx(1.0, abs=0.02)


def test_one_number_to_a_channel_is_enough() -> None:
    """As of a network that classifies, and an only image."""
    head = [torch.tensor([3.0, -4.0]).reshape(1, 2, 1, 1)]
    loss = Loss.of(torch, [head], detections=False)
    assert float(loss([2 * head[0]], head)) == pytest.approx(1 / 0.05)


def test_channels_count_alike(answers: list[Any]) -> None:
    """An error of a part of what a channel spreads over, in whichever channel."""
    head = answers[:1]
    loss = Loss.of(torch, [head], detections=False)
    found = []
    for channel, spread in ((1, 10.0), (2, 3.0)):
        other = head[0].clone()
        other[:, channel] += 0.1 * spread
        found.append(float(loss([other], head)))
    assert found[0] == pytest.approx(found[1], rel=0.3)


def test_a_score_of_nothing_matters_little(answers: list[Any]) -> None:
    loss = Loss.of(torch, [answers], detections=True)
    scores = answers[2]
    weak, strong = (
        scores + 0.5 * scores * mask for mask in ((scores < 0.01).float(), (scores > 0.5).float())
    )
    found = [float(loss(changed(answers, 2, item), answers)) for item in (weak, strong)]
    assert found[0] < 1e-3 * found[1]


def test_a_box_counts_as_its_score_does(answers: list[Any]) -> None:
    loss = Loss.of(torch, [answers], detections=True)
    best = answers[2].amax(-1)
    found = []
    for where in (best == best.max(), best == best.min()):
        boxes = answers[1] + 5.0 * where.unsqueeze(-1)
        found.append(float(loss(changed(answers, 1, boxes), answers)))
    assert found[1] < 0.1 * found[0]


def test_a_wild_box_is_one_wrong_box(answers: list[Any]) -> None:
    loss = Loss.of(torch, [answers], detections=True)
    for far in (1e3, 1e8):
        assert float(loss(changed(answers, 1, answers[1] + far), answers)) <= 1 / 3 + 1e-6


def test_images_without_objects_give_a_number() -> None:
    empty = [torch.zeros(1, 2, 4, 4), torch.zeros(1, 5, 4), torch.zeros(1, 5, 3)]
    loss = Loss.of(torch, [empty], detections=True)
    got = [item.clone().requires_grad_() for item in empty]
    value = loss([item + 0.01 for item in got], empty)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(item.grad).all() for item in got)
