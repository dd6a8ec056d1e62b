from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import boxwright
from boxwright.errors import CfgError, ImportFailedError
from boxwright.importers import choose, formats, import_model, make_request, running
from boxwright.importers.caffe import IMPORTER, prepare
from boxwright.model import Model
from tests.hostile.mutate import mutations
from tests.importers.caffe.nets import caffemodel, chunk, one_line, picture, prototxt
from tests.importers.caffe.test_layers import CONV, CONV_BLOBS, layer, rand

CLASSIFIER = (
    CONV
    + layer("InnerProduct", "inner_product_param { num_output: 5 }")
    + layer("Softmax", "", "y", "prob")
)
BLOBS = {**CONV_BLOBS, "y": ("InnerProduct", [rand(5, 780) * 0.1, rand(5)])}
PLAIN: dict[str, Any] = {"mean": 0, "scale": "1/64"}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(BLOBS))
    path.with_suffix(".prototxt").write_text(prototxt(CLASSIFIER))
    return path


def test_a_classifier_keeps_the_name_of_its_output(weights: Path, tmp_path: Path) -> None:
    model = import_model(weights, options=PLAIN, names=list("abcde"), licence="MIT")
    assert model.card.task == "classify"
    assert model.card.class_names == tuple("abcde")
    assert model.card.resize == "stretch"
    assert model.card.interpolation == "opencv"
    assert model.card.licence == "MIT"
    assert model.card.source_format == "caffe"
    assert [file.name for file in model.card.source_files] == ["net.caffemodel", "net.prototxt"]
    images = np.stack([picture(seed=0), picture(seed=1)])
    prob = running.run(model.proto, {"images": images}, ["prob"])["prob"]
    assert prob.shape == (2, 5)
    np.testing.assert_allclose(prob.sum(1), 1, atol=1e-6)
    model.save(tmp_path / "net.onnx")
    assert Model.load(tmp_path / "net.onnx").card == model.card


def test_an_output_named_as_the_contracts_own(weights: Path) -> None:
    path = weights.with_suffix(".prototxt")
    path.write_text(path.read_text().replace('"prob"', '"boxes"'))
    (output,) = import_model(weights, options=PLAIN).proto.graph.output
    assert output.name == "boxes_1"


def test_recognition(weights: Path, tmp_path: Path) -> None:
    assert "caffe" in formats()
    assert choose(make_request(weights)) is IMPORTER
    renamed = weights.rename(tmp_path / "net.bin")
    assert choose(make_request(renamed)) is IMPORTER
    assert choose(make_request(renamed, cfg=tmp_path / "net.prototxt")) is IMPORTER
    assert IMPORTER.recognise(make_request(renamed, cfg=tmp_path / "net.cfg")) is None
    onnx = tmp_path / "net.onnx"
    import_model(renamed, options=PLAIN).save(onnx)
    assert IMPORTER.recognise(make_request(onnx)) is None
    with pytest.raises(ImportFailedError, match="describes the network; give the caffemodel"):
        import_model(tmp_path / "net.prototxt")


def test_where_the_prototxt_is_looked_for(weights: Path) -> None:
    path = weights.with_suffix(".prototxt")
    for name in ("net_deploy.prototxt", "deploy.prototxt.txt", "other.prototxt"):
        path = path.rename(path.with_name(name))
        assert import_model(weights, options=PLAIN).card.family == "test"
    path.with_name("another.prototxt").write_text("")
    with pytest.raises(ImportFailedError, match=r"no prototxt given and no net.prototxt beside"):
        import_model(weights, options=PLAIN)


def test_another_size(weights: Path) -> None:
    weights.with_suffix(".prototxt").write_text(
        prototxt(CONV + layer("Pooling", "pooling_param { global_pooling: true }"))
    )
    card = import_model(weights, options=PLAIN, size=(20, 30)).card
    assert card.input_size == (20, 30)
    assert card.transforms[0].parameters["size"] == [20, 30]


def test_verified_against_opencv(weights: Path) -> None:
    request = make_request(weights, options=PLAIN)
    model = IMPORTER.load(request)
    verification = IMPORTER.verify(request, model)
    assert verification.passed
    assert "OpenCV" in verification.against
    # And it can fail.
    tensor = next(t for t in model.proto.graph.initializer if t.name.endswith("x/bias"))
    tensor.raw_data = (np.frombuffer(tensor.raw_data, "<f4") + 0.5).tobytes()
    assert not IMPORTER.verify(request, model).passed


def test_on_the_command_line(weights: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "boxwright", "import", str(weights), "--verify", "--json"]
    command += ["-o", str(tmp_path / "net.onnx"), "-q"]
    command += ["--option", "mean=104,117,123", "--option", "scale=1/64"]
    environment = {**os.environ, "PYTHONPATH": str(Path(boxwright.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    card = json.loads(done.stdout)["card"]
    pixels = card["transforms"][0]["parameters"]["pixels"]
    assert pixels == {
        "mean": [104, 117, 123],
        "scale": 1 / 64,
        "channels": "bgr",
        "origin": "options",
    }


class TestPixels:
    def pixels(self, weights: Path, **options: Any) -> dict[str, Any]:
        parameters = import_model(weights, options=options).card.transforms[0].parameters
        return dict(parameters["pixels"])

    def test_unknown_is_refused(self, weights: Path) -> None:
        with pytest.raises(ImportFailedError, match=r"says how pixels were prepared; say it as"):
            import_model(weights)
        with pytest.raises(ImportFailedError, match=r"unknown option 'means'.*did you mean 'mean'"):
            import_model(weights, options={"means": 1})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mean": "1,2"}, "mean must be 1 or 3 numbers, got 2"),
            ({"scale": 0}, "scale above 0"),
            ({"mean": "inf", "scale": 1}, "mean must be finite"),
            ({"mean": 1, "channels": "grey"}, "channels must be rgb or bgr, got 'grey'"),
            ({"scale": "1,2"}, "scale must be one number"),
        ],
    )
    def test_nonsense_is_refused(self, options: Any, message: str, weights: Path) -> None:
        with pytest.raises(ImportFailedError, match=message):
            import_model(weights, options=options)

    def test_from_the_prototxt(self, weights: Path) -> None:
        text = prototxt(CLASSIFIER)
        start = text.index("layer")
        transform = "transform_param { scale: 0.5 mean_value: 1 mean_value: 2 mean_value: 3 }"
        dims = "".join(f"dim: {n} " for n in (1, 3, 10, 13))
        new = (
            f'layer {{ type: "Input" top: "data" {transform} '
            f"input_param {{ shape {{ {dims} }} }} }}\n"
        )
        weights.with_suffix(".prototxt").write_text(new + text[start:])
        assert self.pixels(weights) == {
            "mean": [1, 2, 3],
            "scale": 0.5,
            "channels": "bgr",
            "origin": "the prototxt",
        }
        # A data layer of training, beside the input of deployment.
        train = f'layer {{ type: "Data" top: "d" include {{ phase: TRAIN }} {transform} }}\n'
        weights.with_suffix(".prototxt").write_text(text[:start] + train + text[start:])
        assert self.pixels(weights, channels="rgb")["origin"] == "the prototxt and options"

    def test_from_the_caffemodel(self, weights: Path) -> None:
        transform = b"\x0d" + np.array([0.25], "<f4").tobytes()
        data = chunk(100, chunk(1, b"data") + chunk(2, b"Data") + chunk(100, transform))
        weights.write_bytes(data + caffemodel(BLOBS))
        found = self.pixels(weights)
        assert found["origin"] == "the caffemodel"
        assert found["scale"] == 0.25

    def test_a_mean_image_is_not_ignored(self, weights: Path) -> None:
        path = weights.with_suffix(".prototxt")
        train = 'layer { type: "Data" top: "d" transform_param { mean_file: "m.binaryproto" } }\n'
        train = train.replace("top", "include { phase: TRAIN } top")
        path.write_text(path.read_text().replace("layer {", train + "layer {", 1))
        with pytest.raises(ImportFailedError, match=r"mean image 'm.binaryproto' .* not read"):
            import_model(weights, options={"scale": 1})
        assert self.pixels(weights, mean=7)["mean"] == [7]

    def test_from_a_known_family(self, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = weights.with_suffix(".prototxt")
        path.write_text(path.read_text().replace('name: "test"', 'name: "MobileNet-SSD"'))
        with caplog.at_level(logging.WARNING, "boxwright"):
            assert self.pixels(weights)["mean"] == [127.5]
        assert "taking what MobileNet-SSD is known for" in caplog.text

    def test_the_arithmetic(self) -> None:
        form = prepare.Preparation((10.0,), 0.5, "bgr", "").pixel_format()
        assert (200 * form.scale - form.mean[0]) / form.std[0] == (200 - 10) * 0.5

    def test_a_grey_network_sees_luma(self, tmp_path: Path) -> None:
        body = layer(
            "Convolution", "convolution_param { num_output: 1 kernel_size: 1 }", "data", "x"
        )
        pool = layer("Pooling", "pooling_param { pool: AVE global_pooling: true }")
        weights = tmp_path / "net.caffemodel"
        weights.write_bytes(
            caffemodel({"x": ("Convolution", [np.ones((1, 1, 1, 1)), np.zeros(1)])})
        )
        weights.with_suffix(".prototxt").write_text(prototxt(body + pool, channels=1))
        model = import_model(weights, options={"mean": 0, "scale": 1})
        image = picture()
        (value,) = running.run(model.proto, {"images": image[None]}, ["y"])["y"]
        np.testing.assert_allclose(value, (image @ [0.299, 0.587, 0.114]).mean(), rtol=1e-5)


def test_damaged_prototxts_are_refused_or_used(weights: Path) -> None:
    path = weights.with_suffix(".prototxt")
    data = path.read_bytes()
    outcomes = {"used": 0, "refused": 0}
    for _what, damaged in mutations(data, 400, seed=3):
        path.write_bytes(damaged)
        try:
            import_model(weights, options=PLAIN)
            outcomes["used"] += 1
        except ImportFailedError as error:
            outcomes["refused"] += 1
            one_line(error)
    assert outcomes["refused"] > 100
    assert outcomes["used"] > 3


def test_errors_name_the_line_and_the_layer(weights: Path) -> None:
    path = weights.with_suffix(".prototxt")
    path.write_text(path.read_text().replace("kernel_size: 3", "kernel_size: 0"))
    with pytest.raises(
        CfgError, match=r"net.prototxt:7: \[x \(Convolution\)\] kernel_size must be"
    ):
        import_model(weights, options=PLAIN)
