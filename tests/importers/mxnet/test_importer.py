from __future__ import annotations

import json
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import boxwright
from boxwright.card import Attribute
from boxwright.errors import BoxwrightError, ImportFailedError, MissingExtraError
from boxwright.importers import choose, make_request
from boxwright.importers.mxnet import oracle
from boxwright.importers.mxnet.classify import mean_face
from boxwright.importers.mxnet.importer import read_import
from boxwright.importers.mxnet.params import read_params
from boxwright.importers.mxnet.retinaface import POINTS
from tests.hostile.mutate import mutations
from tests.importers.mxnet.files import classifier, node


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return classifier(tmp_path)


def test_the_card(params: Path) -> None:
    model = boxwright.import_model(params, names=["a", "b", "c"], licence="MIT")
    model.check()
    card = model.card
    assert (card.name, card.task, card.family) == ("net", "classify", "mxnet-classifier")
    assert card.input_size == (8, 12)
    assert card.class_names == ("a", "b", "c")
    assert card.attributes == (Attribute("class", "class", ("a", "b", "c")),)
    assert [file.name for file in card.source_files] == ["net-0003.params", "net-symbol.json"]
    assert card.transforms[0].effect["mxnet_version"] == 10901
    assert card.licence == "MIT"
    assert boxwright.ModelCard.from_json(card.to_json()) == card


def test_what_it_computes(params: Path) -> None:
    """Against the definition; gamma counts as 1, for fix_gamma is MXNet's default."""
    weights = read_params(params)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 12, 3), np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(float), (3, 3), axis=(1, 2))
    planes = np.einsum("nyxcij,fcij->nfyx", windows, weights["conv_weight"])
    columns = [weights[f"bn_{n}"].reshape(4, 1, 1) for n in ("moving_mean", "moving_var", "beta")]
    planes = (planes - columns[0]) / np.sqrt(columns[1] + 1e-3) + columns[2]
    logits = planes.mean(axis=(2, 3)) @ weights["fc_weight"].T + weights["fc_bias"]
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    model = boxwright.import_model(params)
    assert not [n for n in model.proto.graph.node if n.op_type == "BatchNormalization"]
    with boxwright.load(model) as runner:
        assert np.abs(runner.infer({"images": pixels})["class"] - expected).max() < 1e-5
    options: dict[str, Any] = {"mean": "10,20,30", "std": 2, "channels": "bgr"}
    other = boxwright.import_model(params, options=options)
    assert other.card.transforms[0].parameters == options
    with boxwright.load(other) as runner, boxwright.load(model) as plain:
        given = (pixels[..., ::-1] // 2 * 2).copy()
        shifted = np.clip(given.astype(int), 30, 255).astype(np.uint8) // 2 * 2
        back = (shifted.astype(int) - [10, 20, 30]) // 2
        want = plain.infer({"images": back[..., ::-1].astype(np.uint8).copy()})["class"]
        assert np.abs(runner.infer({"images": shifted})["class"] - want).max() < 1e-5


def test_where_the_other_file_is_looked_for(params: Path) -> None:
    symbol = params.with_name("net-symbol.json")
    assert boxwright.import_model(symbol).card.name == "net"
    later = params.with_name("net-0012.params")
    shutil.copy(params, later)
    card = boxwright.import_model(symbol).card
    assert card.source_files[0].name == "net-0012.params"
    moved = symbol.rename(symbol.with_name("other.json"))
    with pytest.raises(ImportFailedError, match=r"no net-symbol.json beside it; give"):
        boxwright.import_model(params)
    assert boxwright.import_model(params, cfg=moved).card.name == "net"
    with pytest.raises(ImportFailedError, match=r"no other-0000.params beside it"):
        boxwright.import_model(moved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 1}, "unknown option 'scale' of this format; there are: mean, std, channels"),
        ({"std": 0}, "std must be above 0"),
        ({"mean": "1,2"}, "mean must be one number or three"),
        ({"mean": "nan"}, "mean must be one number or three"),
        ({"channels": "rbg"}, "channels must be rgb or bgr"),
    ],
)
def test_wrong_options(params: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImportFailedError, match=message):
        boxwright.import_model(params, options=options)


def changed(folder: Path, index: int, **attrs: str) -> Path:
    """The classifier with other settings of one node."""
    params = classifier(folder)
    path = params.with_name("net-symbol.json")
    content = json.loads(path.read_text())
    content["nodes"][index]["attrs"] |= attrs
    path.write_text(json.dumps(content))
    return params


CHANGES = {
    "filters of another network": (2, {"num_filter": "5"}, r"its weight must be \[5, 3, 3, 3\]"),
    "a kernel larger than the input": (2, {"kernel": "(30, 3)"}, "its weight must be"),
    "no groups": (2, {"num_group": "0"}, "groups must be 1 or more"),
    "a stride of 0": (2, {"stride": "(0, 1)"}, "stride must be 1 or more"),
    "another layout": (2, {"layout": "NHWC"}, "layout must be NCHW, got NHWC"),
    "a shape of no image": (0, {"__shape__": "(1, 3, 1, 1)"}, "is the input too small"),
    "an axis that is not there": (5, {"axis": "9"}, "axis 9 is not there"),
    "a variance below 0": (5, {"eps": "-5"}, "a variance is negative"),
    "more padding than there is": (2, {"pad": "(9999999, 9999999)"}, "is a setting damaged"),
    "pooling of another kind": (6, {"pool_type": "lp"}, "pool_type must be one of max, avg, sum"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_refused(tmp_path: Path, case: str) -> None:
    index, attrs, message = CHANGES[case]
    with pytest.raises(ImportFailedError, match=message):
        boxwright.import_model(changed(tmp_path, index, **attrs))


def test_operators_that_are_not_known(tmp_path: Path) -> None:
    nodes = [node("null", "data"), node("Custom", "a", [[0, 0]]), node("RNN", "b", [[1, 0]])]
    params = classifier(tmp_path, nodes=nodes, heads=[[2, 0]])
    with pytest.raises(ImportFailedError, match=r"node 1 \(Custom 'a'\).*Custom \(1\), RNN \(1\)"):
        boxwright.import_model(params, size=8)


def test_a_network_of_an_unknown_kind(tmp_path: Path) -> None:
    nodes = [node("null", "data"), node("relu", "a", [[0, 0]])]
    with pytest.raises(ImportFailedError, match=r"do not say how large.* --size HxW"):
        boxwright.import_model(classifier(tmp_path, nodes=nodes, heads=[[1, 0]]))
    params = classifier(tmp_path, nodes=nodes, heads=[[1, 0]])
    with pytest.raises(ImportFailedError, match=r"'a' is \[N, 3, 8, 8\]. A detector ends in"):
        boxwright.import_model(params, size=8)
    with pytest.raises(ImportFailedError, match=r"2 outputs.* of no detector known here"):
        boxwright.import_model(classifier(tmp_path, nodes=nodes, heads=[[1, 0], [0, 0]]), size=8)


def test_parameters_of_another_network(tmp_path: Path) -> None:
    params = classifier(tmp_path)
    path = params.with_name("net-symbol.json")
    path.write_text(path.read_text().replace("fc_bias", "other_bias"))
    with pytest.raises(ImportFailedError, match="are the parameters those of this"):
        boxwright.import_model(params)


def test_without_mxnet(params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(oracle.PYTHON, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    request = make_request(params)
    importer: Any = choose(request)
    with pytest.raises(MissingExtraError, match=r"pip install mxnet==1.9.1.*MXNET_PYTHON"):
        importer.verify(request, importer.load(request))


def test_a_bomb_of_constants(tmp_path: Path) -> None:
    """Each line of the symbol asks for 64 MB."""
    nodes = [node("null", "data"), node("_ones", "c0", shape="(4096, 4096)")]
    nodes += [node("_plus_scalar", f"c{i}", [[i, 0]], scalar="1") for i in range(1, 200)]
    params = classifier(tmp_path, nodes=nodes, heads=[[len(nodes) - 1, 0], [0, 0]])
    params.with_name("net-symbol.json").write_text(
        json.dumps({"nodes": [*nodes, node("broadcast_add", "a", [[0, 0], [200, 0]])]})
    )
    tracemalloc.start()
    with pytest.raises(ImportFailedError, match="hold more numbers than those of any detector"):
        boxwright.import_model(params, size=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 29


def refusal(params: Path) -> str:
    """Why it is not imported; nothing where it is."""
    try:
        boxwright.import_model(params, format="mxnet")
    except BoxwrightError as error:
        return str(error) or "nothing said"
    return ""


def test_damaged_files(tmp_path: Path) -> None:
    """What comes of damage is a model, or one line that names the file."""
    params = classifier(tmp_path)
    symbol = params.with_name("net-symbol.json")
    sound = {path: path.read_bytes() for path in (params, symbol)}
    outcomes = {True: 0, False: 0}
    for path, data in sound.items():
        for what, damaged in mutations(data, 300, 3, (b'"', b"[", b"\xc9\xfa\x93\xf9")):
            path.write_bytes(damaged)
            message = refusal(params)
            assert "\n" not in message, what
            outcomes[message == ""] += 1
        path.write_bytes(data)
    assert min(outcomes.values()) > 20


def test_damaged_settings(tmp_path: Path) -> None:
    """Numbers that are possible JSON and impossible networks."""
    params = classifier(tmp_path)
    symbol = params.with_name("net-symbol.json")
    content = json.loads(symbol.read_text())
    chance = random.Random(0)
    words = ["-1", "0", "1", "(0, 0)", "(-3, 2)", "16777216", "1e30", "None", "", "()", "(7,)"]
    for _ in range(400):
        copy = json.loads(json.dumps(content))
        item = chance.choice([n for n in copy["nodes"] if n["attrs"]])
        key = chance.choice([*item["attrs"], "pad", "stride", "dilate", "axis", "num_group"])
        item["attrs"][key] = chance.choice(words)
        symbol.write_text(json.dumps(copy))
        message = refusal(params)
        assert message == "" or str(tmp_path) in message


def test_gender_and_age(fixtures_dir: Path) -> None:
    model = boxwright.import_model(
        fixtures_dir / "mxnet" / "insightface-genderage" / "model-0000.params"
    )
    card = model.card
    assert card.task == "classify"
    assert card.input_size == (112, 112)
    assert card.attributes[0] == Attribute("sex", "class", ("female", "male"))
    assert card.attributes[1] == Attribute("age", "number", unit="years")
    assert card.crop is not None
    assert card.crop.shape == "aligned"
    assert tuple(point.name for point in card.crop.template) == POINTS
    # The mean face as ArcFace's programs have it, from the centre of the first pixel.
    published = [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
    got = [(point.x - 0.5, point.y - 0.5) for point in card.crop.template]
    assert np.array(got) == pytest.approx(np.array(published))
    # In an input of another size it is as much larger.
    half = mean_face((56, 224))
    assert [(p.x / 2, p.y * 2) for p in half] == [(p.x, p.y) for p in card.crop.template]


def test_faces(fixtures_dir: Path) -> None:
    """At the photo's own size, the scores are those that insightface's code gave."""
    folder = fixtures_dir / "mxnet" / "retinaface-mnet25"
    model = boxwright.import_model(folder / "mnet.25-symbol.json", size=(736, 1280))
    assert model.card.class_names == ("face",)
    assert model.card.landmarks == POINTS
    assert sum(head.rows for head in model.card.heads) == 2 * (23 * 40 + 46 * 80 + 92 * 160)
    photo = boxwright_image(fixtures_dir / "photos" / "zidane.jpg")
    images = np.zeros((1, 736, 1280, 3), np.uint8)
    images[0, :720] = photo
    with boxwright.load(model) as runner:
        outputs = runner.infer({"images": images})
    best = np.argsort(-outputs["scores"][0, :, 0])
    assert outputs["scores"][0, best[0], 0].round(3) == np.float32(0.997)
    assert outputs["landmarks"].shape == (1, len(best), 5, 2)
    left, top, right, bottom = outputs["boxes"][0, best[0]]
    points = outputs["landmarks"][0, best[0]]
    assert ((points > [left, top]) & (points < [right, bottom])).all()
    with pytest.raises(ImportFailedError, match="multiples of 32, got 700x1280"):
        boxwright.import_model(folder / "mnet.25-symbol.json", size=(700, 1280))


def boxwright_image(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from boxwright.images import load_image

    return load_image(path)


def insightface_boxes(
    deltas: np.ndarray[Any, Any], points: np.ndarray[Any, Any], stride: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One level's boxes and landmarks, by insightface's definitions, anchor by anchor.

    Anchors are the pixels 0 to 15 scaled about their centre and moved by whole strides; a
    box of the pixels x1 to x2 is ``x2 - x1 + 1`` wide.
    """
    scales = {32: (32, 16), 16: (8, 4), 8: (2, 1)}[stride]
    boxes, landmarks = [], []
    for row in range(deltas.shape[1]):
        for column in range(deltas.shape[2]):
            for i, scale in enumerate(scales):
                side = 16 * scale
                x1, x2 = 7.5 - (side - 1) / 2, 7.5 + (side - 1) / 2
                width = x2 - x1 + 1
                x = x1 + column * stride + 0.5 * (width - 1)
                y = x1 + row * stride + 0.5 * (width - 1)
                dx, dy, dw, dh = deltas[4 * i : 4 * i + 4, row, column].astype(float)
                w, h = np.exp(dw) * width, np.exp(dh) * width
                cx, cy = dx * width + x, dy * width + y
                half = 0.5 * (w - 1), 0.5 * (h - 1)
                boxes.append((cx - half[0], cy - half[1], cx + half[0], cy + half[1]))
                moved = points[10 * i : 10 * i + 10, row, column].astype(float) * width
                landmarks.append(moved.reshape(5, 2) + np.array([x, y]))
    return np.array(boxes), np.array(landmarks)


def test_faces_are_decoded_as_insightface_does(fixtures_dir: Path) -> None:
    params = fixtures_dir / "mxnet" / "retinaface-mnet25" / "mnet.25-0000.params"
    made = read_import(make_request(params, size=(64, 96)))
    model = made.model()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    names = [value.name for value in made.values]
    wanted = [*names, "boxes", "scores", "landmarks"]
    *raw, boxes, scores, landmarks = oracle.run_tensors(model, wanted, pixels)
    levels = [raw[i : i + 3] for i in range(0, 9, 3)]
    expected = [
        insightface_boxes(deltas[0], points[0], stride)
        for (_, deltas, points), stride in zip(levels, (32, 16, 8), strict=True)
    ]
    assert np.abs(boxes[0] - np.concatenate([b for b, _ in expected])).max() < 1e-3
    # It counts from the centre of the first pixel, the contract from its edge.
    points = np.concatenate([p for _, p in expected]) + 0.5
    assert np.abs(landmarks[0] - points).max() < 1e-3
    # Of four planes of probabilities, the last two are the faces' of the two anchors.
    faces = [level[0][0, 2:].transpose(1, 2, 0).reshape(-1) for level in levels]
    assert np.array_equal(scores[0, :, 0], np.concatenate(faces))
