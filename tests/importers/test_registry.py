"""How a format is chosen from what the importers say of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from boxwright.errors import ImportFailedError
from boxwright.importers import (
    Check,
    Confidence,
    ImportRequest,
    Recognition,
    Verification,
    check_options,
    choose,
    import_model,
    make_request,
    registry,
)
from boxwright.model import Model


@dataclass
class Fake:
    name: str
    says: Recognition | None = None
    description: str = "a fake"

    def recognise(self, request: ImportRequest) -> Recognition | None:
        return self.says

    def load(self, request: ImportRequest) -> Model:
        raise AssertionError


@pytest.fixture
def request_(tmp_path: Path) -> ImportRequest:
    path = tmp_path / "file.bin"
    path.write_bytes(b"x")
    return make_request(path)


def install(monkeypatch: pytest.MonkeyPatch, *fakes: Fake) -> None:
    known = {fake.name: fake for fake in fakes}
    monkeypatch.setattr(registry, "_MODULES", dict.fromkeys(known, ""))
    monkeypatch.setattr(registry, "_importer", known.__getitem__)


def test_the_surest_is_taken(monkeypatch: pytest.MonkeyPatch, request_: ImportRequest) -> None:
    install(
        monkeypatch,
        Fake("guess", Recognition(Confidence.POSSIBLE, "of its name")),
        Fake("sure", Recognition(Confidence.CERTAIN, "of its content")),
        Fake("not"),
    )
    assert choose(request_).name == "sure"
    assert choose(request_, "not").name == "not"


def test_a_tie_asks_and_says_why(monkeypatch: pytest.MonkeyPatch, request_: ImportRequest) -> None:
    install(
        monkeypatch,
        Fake("one", Recognition(Confidence.LIKELY, "it begins with a 1")),
        Fake("two", Recognition(Confidence.LIKELY, "it ends with a 2")),
        Fake("three", Recognition(Confidence.POSSIBLE, "of its name")),
    )
    with pytest.raises(ImportFailedError) as caught:
        choose(request_)
    message = str(caught.value)
    assert "could be of 2 formats" in message
    assert "one, because it begins with a 1" in message
    assert "two, because it ends with a 2" in message
    assert "three" not in message
    assert "--format" in message


def test_options_of_another_format_are_refused(tmp_path: Path) -> None:
    request = ImportRequest(tmp_path, options={"strdes": "8"})
    with pytest.raises(ImportFailedError, match="did you mean 'strides'"):
        check_options(request, {"strides": "of the levels"})
    with pytest.raises(ImportFailedError, match="there are: none"):
        check_options(request, {})


def test_a_head_named_for_nothing_is_refused(tmp_path: Path) -> None:
    request = ImportRequest(tmp_path / "x.weights", head="yolox")
    with pytest.raises(ImportFailedError, match="--head yolox is without effect"):
        check_options(request, {})
    check_options(request, {}, takes_head=True)


@pytest.mark.parametrize(
    "weights",
    [
        "darknet/yolov4-tiny/yolov4-tiny.weights",
        "pytorch/yolov5n.pt",
        "mxnet/retinaface-mnet25/mnet.25-0000.params",
        "caffe/mobilenet-ssd/MobileNetSSD_deploy.caffemodel",
        "tensorflow/efficientdet-lite0.tflite",
    ],
)
def test_every_format_that_knows_its_head_refuses_one(fixtures_dir: Path, weights: str) -> None:
    with pytest.raises(ImportFailedError, match="says itself what its head is"):
        import_model(fixtures_dir / weights, head="yolox")


def test_a_verification_passes_only_with_numbers() -> None:
    def verdict(*differences: float) -> bool:
        checks = tuple(Check("boxes", d, 1e-3, "float32") for d in differences)
        return Verification("something", checks).passed

    assert verdict(0.0, 1e-3)
    assert not verdict(0.0, 2e-3)
    assert not verdict(float("nan"))
    assert not verdict()
