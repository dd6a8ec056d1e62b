"""One attempt each at a damaged file, for the tests and for long runs of ``tools/fuzz.py``.

An attempt does what a user could do with the file, returns a word for how it ended, and lets
everything but a :class:`~boxwright.errors.BoxwrightError` through: that would be a finding.
"""

from __future__ import annotations

import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from boxwright import backends
from boxwright.darknet.layers import Convolutional, Layer, Local, Pool
from boxwright.darknet.network import read_network
from boxwright.engine import Engine
from boxwright.errors import BoxwrightError
from boxwright.graph.diagnose import diagnose
from boxwright.graph.doctor import read_graph
from boxwright.graph.legalise import legalise
from boxwright.graph.targets import known_targets
from boxwright.importers import import_model
from boxwright.model import Model
from boxwright.quantize.calibration import Calibration, calibrate
from boxwright.quantize.legacy_cache import read_legacy_cache, write_legacy_cache
from boxwright.quantize.ranges import METHODS
from tests.darknet.cfgs import random_weights, write_weights
from tests.graph import zoo
from tests.hostile.break_graphs import break_graph
from tests.hostile.mutate import ZIP_MARKS, mutations
from tests.importers.caffe.test_heads import ssd
from tests.importers.exports import yolov8, yolox
from tests.importers.mxnet.files import classifier
from tests.importers.pytorch import assemble
from tests.models import make_model
from tests.oracle.test_layers import NETWORKS

GOLDEN = Path(__file__).parents[1] / "importers" / "tensorflow" / "golden"

# A network that the damage made larger is imported, but not run: it is slow, not broken.
_RUN_AT_MOST = 1 << 22
_CAFFE_PIXELS = 1 << 12


@dataclass(frozen=True)
class Target:
    """A kind of file to damage.

    Attributes:
        sound: Writes sound files into a folder; returns the one to damage for a number.
        attempt: Does with the damaged file what a user could.
        marks: Where headers start, for the mutations that look for them.
    """

    sound: Callable[[Path], list[Path]]
    attempt: Callable[[Path], str]
    marks: tuple[bytes, ...] = ()


def cases(target: Target, folder: Path, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """`count` damaged files, one after the other under one name in `folder`."""
    files = target.sound(folder)
    for number in range(count):
        source = files[number % len(files)]
        data = source.read_bytes()
        ((what, damaged),) = mutations(data, 1, seed * 1_000_003 + number, target.marks)
        if source.suffix == ".cfg" and number % 2:
            damaged = _shuffle_lines(data, random.Random(f"{seed}/{number}"))
            what = "shuffle lines"
        if target.attempt in (attempt_graph, attempt_export) and number % 8:
            # Damaged bytes hardly ever parse; these always do.
            damaged, what = _break_graph(data, f"{seed}/{number}"), "break the graph"
        path = folder / f"damaged{source.suffix}"
        path.write_bytes(damaged)
        yield f"seed {seed}, number {number}, {source.name}: {what}", path


def attempt_cfg(path: Path) -> str:
    """Import with weights that fit whatever the cfg has become, and run the result."""
    try:
        network = read_network(path)
        if network.weight_count > _RUN_AT_MOST:
            return "refused"  # no file of that length is written just to be refused
        weights = path.with_suffix(".weights")
        write_weights(weights, random_weights(network))
        model = import_model(weights, cfg=path)
        model.save(path.with_suffix(".onnx"))
        if sum(_cost(layer) for layer in network.layers) < _RUN_AT_MOST:
            _run(model)
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_weights(path: Path) -> str:
    """Import with the cfg that the weights belonged to."""
    try:
        model = import_model(path, cfg=path.with_name("sound.cfg"))
        model.save(path.with_suffix(".onnx"))
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_mxnet(path: Path) -> str:
    """Import with the sound one of parameters and symbol, and run what is small enough."""
    is_symbol = path.suffix == ".json"
    weights = path.with_name("net-0003.params") if is_symbol else path
    symbol = path if is_symbol else path.with_name("net-symbol.json")
    try:
        model = import_model(weights, cfg=symbol, format="mxnet")
        model.save(path.with_suffix(".onnx"))
        height, width = model.card.input_size
        if height * width < _RUN_AT_MOST and len(model.to_bytes()) < _RUN_AT_MOST:
            _run(model)
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_model(path: Path) -> str:
    """Load, and build when it loads."""
    try:
        backends.build(Model.load(path), output=path.with_suffix(".bw"))
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_graph(path: Path) -> str:
    """Diagnose and cure for every column of the table; the file need not keep the contract."""
    try:
        proto = read_graph(path)
        for target in {target.column: target for target in known_targets()}.values():
            diagnose(proto, target, path.parent)
            cured, reports = legalise(proto, target, folder=path.parent, tidy=True, size=(8, 8))
            if reports:
                diagnose(cured, target, path.parent)
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_export(path: Path) -> str:
    """Import a file that others exported, and load what becomes of it."""
    try:
        model = import_model(path, format="onnx")
        model.save(path.with_suffix(".own.onnx"))
        Model.load(path.with_suffix(".own.onnx"))
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_engine(path: Path) -> str:
    """Open, verify every byte, and run when all is well."""
    try:
        engine = Engine.open(path)
        engine.verify()
        _run(engine.model())
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_caffe(path: Path) -> str:
    """Import a prototxt or a caffemodel, with the sound other one; run it where it is small."""
    try:
        sound = path.with_name("sound.caffemodel")
        weights = path if path.suffix == ".caffemodel" else sound
        prototxt = path if path.suffix == ".prototxt" else path.with_name("sound.prototxt")
        model = import_model(weights, cfg=prototxt, options={"mean": 0, "scale": 1})
        model.save(path.with_suffix(".onnx"))
        height, width = model.card.input_size
        if model.card.task == "detect" and height * width < _CAFFE_PIXELS:
            _run(model)
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_checkpoint(path: Path) -> str:
    """Import a checkpoint; of a damaged pickle, one that has it and whose checksums are right."""
    if path.suffix == ".pkl":
        storages = assemble.Writer()
        storages.dumps({"model": assemble.network()})
        path, data = path.with_suffix(".pt"), path.read_bytes()
        path.write_bytes(assemble.archive(data, storages.storages))
    try:
        model = import_model(path, format="pytorch", size=32)
        model.save(path.with_suffix(".onnx"))
        # What is imported must be a sound graph, whatever its numbers are.
        _run(model)
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_tensorflow(path: Path) -> str:
    """Import a file of TensorFlow's, or the SavedModel that an index belongs to."""
    options = {
        "box": "yxyx",
        "normalised": True,
        "activation": "none",
        "background": "none",
        "scale": 1,
    }
    source = saved = path.with_name("saved")
    if path.suffix == ".index":
        shutil.copy(GOLDEN / "saved_model" / "saved_model.pb", saved)
        path.replace(saved / "variables" / "variables.index")
    elif saved.is_dir():
        shutil.copy(GOLDEN / "saved_model" / "variables" / "variables.index", saved / "variables")
        path.replace(saved / "saved_model.pb")
    else:
        source = path
    try:
        model = import_model(source, format="tensorflow", head="ssd", options=options)
        model.save(path.with_suffix(".onnx"))
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_calibration(path: Path) -> str:
    """Load, ask every tensor for every range, and write it again."""
    try:
        found = Calibration.load(path)
        for name in found.statistics:
            ranges = [found.amax(name, method) for method in METHODS]
            assert all(0 <= amax <= ranges[0] for amax in ranges)
        found.save(path.with_suffix(".again.npz"))
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def attempt_legacy_cache(path: Path) -> str:
    """Read, and read again what is written of it."""
    try:
        found = read_legacy_cache(path)
        write_legacy_cache(path.with_suffix(".again"), found)
        assert read_legacy_cache(path.with_suffix(".again")) == found
    except BoxwrightError as error:
        return _refused(error)
    return "used"


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that a writer should have removed."""
    return [path for path in folder.iterdir() if path.suffix == ".part"]


def _cost(layer: Layer) -> int:
    """Values read to compute a layer, roughly."""
    window = layer.size**2 if isinstance(layer, (Pool, Convolutional, Local)) else 1
    return layer.shape.size * min(window, layer.input_shape.size)


def _refused(error: BoxwrightError) -> str:
    text = str(error)
    if not text or "\n" in text:
        raise AssertionError(f"an error message must be one line: {text!r}") from error
    return "refused"


def _run(model: Model) -> None:
    height, width = model.card.input_size
    with backends.load(model) as runner:
        runner.infer({"images": np.zeros((1, height, width, 3), np.uint8)})


def _shuffle_lines(data: bytes, chance: random.Random) -> bytes:
    """Repeat, drop, swap or renumber whole lines, so that more of the result still parses."""
    lines = data.split(b"\n")
    for _ in range(chance.randint(1, 3)):
        at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        step = chance.randrange(4)
        if step == 0:
            lines.insert(at, lines[other])
        elif step == 1 and len(lines) > 1:
            del lines[at]
        elif step == 2:
            lines[at], lines[other % len(lines)] = lines[other % len(lines)], lines[at]
        else:
            key, equals, _ = lines[at].partition(b"=")
            value = chance.choice((b"0", b"-1", b"1", b"2", b"3", b"7", b"16384", b"1000000", b""))
            lines[at] = key + equals + value
    return b"\n".join(lines)


def _sound_cfgs(folder: Path) -> list[Path]:
    paths = []
    for name, text in NETWORKS.items():
        path = folder / f"{name}.cfg"
        path.write_text(text)
        paths.append(path)
    return paths


def _sound_weights(folder: Path) -> list[Path]:
    cfg = folder / "sound.cfg"
    cfg.write_text(NETWORKS["shortcut with softmax weights"])
    network = read_network(cfg)
    paths = []
    for name, version in (("new", (0, 2, 5)), ("old", (0, 1, 0))):
        path = folder / f"{name}.weights"
        write_weights(path, random_weights(network), version)
        paths.append(path)
    return paths


def _sound_mxnet(folder: Path) -> list[Path]:
    params = classifier(folder)
    return [params, params.with_name("net-symbol.json")]


def _sound_checkpoints(folder: Path) -> list[Path]:
    writer = assemble.Writer()
    code = writer.dumps({"model": assemble.network(), "epoch": 3, "opt": {"imgsz": 64}})
    sizes = dict.fromkeys(writer.storages, 4)
    paths = [folder / name for name in ("net.pkl", "net.pt", "old.pt", "again.pkl")]
    paths[0].write_bytes(code)
    paths[1].write_bytes(assemble.archive(code, writer.storages))
    paths[2].write_bytes(assemble.legacy(code, writer.storages, sizes))
    paths[3].write_bytes(code)
    header = b'{"a.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]}}'
    paths.append(folder / "net.safetensors")
    paths[4].write_bytes(len(header).to_bytes(8, "little") + header + bytes(12))
    return paths


def _sound_model(folder: Path) -> list[Path]:
    path = folder / "sound.onnx"
    make_model(channels=4).save(path)
    return [path]


def _sound_graphs(folder: Path) -> list[Path]:
    """Sound enough to parse: what is wrong in them is the graph."""
    paths = []
    for number, case in enumerate(zoo.cases()):
        path = folder / f"sound{number}.onnx"
        path.write_bytes(case.make().SerializeToString())
        paths.append(path)
    return paths


def _sound_exports(folder: Path) -> list[Path]:
    return [
        yolov8().save(folder / "yolov8.onnx"),
        yolox(decoded=False).save(folder / "yolox.onnx"),
        yolov8(opset=18).save(folder / "new.onnx"),
    ]


def _break_graph(data: bytes, seed: str) -> bytes:
    proto = onnx.ModelProto.FromString(data)
    break_graph(proto, random.Random(seed))
    return proto.SerializeToString()


def _sound_engine(folder: Path) -> list[Path]:
    path = folder / "sound.bw"
    backends.build(make_model(channels=4), output=path)
    return [path]


def _sound_caffe(folder: Path) -> list[Path]:
    weights, *_ = ssd(folder, False, "code_type: CENTER_SIZE nms_param { nms_threshold: 0.5 }")
    weights.rename(folder / "sound.caffemodel")
    (folder / "net.prototxt").rename(folder / "sound.prototxt")
    return [folder / "sound.caffemodel", folder / "sound.prototxt"]


def _sound_tensorflow(folder: Path) -> list[Path]:
    return [Path(shutil.copy(GOLDEN / name, folder)) for name in ("float.tflite", "frozen.pb")]


def _sound_saved_model(folder: Path) -> list[Path]:
    shutil.copytree(GOLDEN / "saved_model", folder / "saved")
    names = ("saved_model.pb", "variables/variables.index")
    return [Path(shutil.copy(GOLDEN / "saved_model" / name, folder)) for name in names]


def _sound_calibration(folder: Path) -> list[Path]:
    picture = folder / "picture.png"
    Image.fromarray(
        np.arange(20 * 30 * 3, dtype=np.uint16).reshape(20, 30, 3).astype(np.uint8)
    ).save(picture)
    calibrate(make_model(channels=4), [picture], ["boxes", "conv_3"]).save(folder / "sound.npz")
    # Not compressed: its numbers can be damaged without zlib noticing.
    stored = folder / "stored.npz"
    with zipfile.ZipFile(folder / "sound.npz") as source, zipfile.ZipFile(stored, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    return [folder / "sound.npz", stored]


def _sound_legacy_cache(folder: Path) -> list[Path]:
    path = folder / "sound.cache"
    lines = [f"layer {n}: conv/{n}_output: {0x3C010A14 + n:08x}" for n in range(20)]
    path.write_text("\n".join(["TRT-8601-EntropyCalibration2", *lines, ""]))
    return [path]


TARGETS = {
    "checkpoint": Target(_sound_checkpoints, attempt_checkpoint, ZIP_MARKS),
    "cfg": Target(_sound_cfgs, attempt_cfg),
    "weights": Target(_sound_weights, attempt_weights),
    "caffe": Target(_sound_caffe, attempt_caffe),
    "mxnet": Target(_sound_mxnet, attempt_mxnet, (b'"', b"[", b"\xc9\xfa\x93\xf9")),
    "model": Target(_sound_model, attempt_model),
    "graph": Target(_sound_graphs, attempt_graph),
    "export": Target(_sound_exports, attempt_export),
    "tensorflow": Target(_sound_tensorflow, attempt_tensorflow),
    "saved_model": Target(_sound_saved_model, attempt_tensorflow),
    "engine": Target(_sound_engine, attempt_engine, (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")),
    "calibration": Target(_sound_calibration, attempt_calibration, ZIP_MARKS),
    "legacy_cache": Target(_sound_legacy_cache, attempt_legacy_cache, (b": ", b"TRT-")),
}
