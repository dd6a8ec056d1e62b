"""Checkpoints that want to run something, or too much memory, or lie."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from boxwright.errors import ImportFailedError
from boxwright.importers import import_model
from tests.importers.pytorch import assemble
from tests.importers.pytorch.assemble import Raw, Writer, glob

SIZE = 32


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


class Holder:
    """Holds one."""

    def __init__(self, bomb: Bomb) -> None:
        self.bomb = bomb


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there afterwards."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "the pickle ran something"


def refused(path: Path, **options: Any) -> str:
    started = time.process_time()
    with pytest.raises(ImportFailedError) as caught:
        import_model(path, format="pytorch", size=SIZE, **options)
    # Of the processor's time, so that other work on the machine does not count.
    assert time.process_time() - started < 10
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def refused_pickle(path: Path, code: bytes, **storages: bytes) -> str:
    path.write_bytes(assemble.archive(code, storages))
    return refused(path)


def test_a_sound_one_is_imported(tmp_path: Path) -> None:
    path = assemble.write(tmp_path / "net.pt", {"model": assemble.network()})
    model = import_model(path, size=SIZE)
    assert model.card.class_names == ("cat", "dog")
    assert [head.rows for head in model.card.heads] == [128, 32]
    model.check()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["root", "model", "attribute", "list"])
def test_nothing_is_run(tmp_path: Path, canary: Path, protocol: int, place: str) -> None:
    source = f"open({str(canary)!r}, 'w').close()"
    functions: list[tuple[Any, ...]] = [
        (os.system, f"touch {canary}"),
        (eval, source),
        (exec, source),
        (open, str(canary), "w"),
        (subprocess.Popen, ["touch", str(canary)]),
        (os.mkdir, str(canary)),
        (shutil.copy, __file__, str(canary)),
        (__import__, "antigravity"),
    ]
    for number, (function, *arguments) in enumerate(functions):
        bomb = Bomb(function, *arguments)
        places: dict[str, Any] = {
            "root": bomb,
            "model": {"model": bomb},
            "attribute": {"model": Holder(bomb)},
            "list": {"epoch": 1, "opt": [1, (bomb,)]},
        }
        code = pickle.dumps(places[place], protocol)
        assert function.__name__.encode() in code
        text = refused_pickle(tmp_path / f"{number}.pt", code)
        assert "Nothing in it was run" in text
        # Protocol 0 has operations that torch never writes, and these come first.
        assert "it names" in text or protocol == 0


def test_the_canary_would_be_seen(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(os.system, f"touch {tmp_path / 'canary'}")))
    assert (tmp_path / "canary").exists()


SYSTEM = b"X\x02\x00\x00\x00os", b"X\x06\x00\x00\x00system"
ARGUMENT = b"(X\x05\x00\x00\x00falset"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"cos\nsystem\n" + ARGUMENT + b"R.", "names 'os.system'"),
        (b"cposix\nsystem\n" + ARGUMENT + b"R.", "names 'posix.system'"),
        # Dots lead from an allowed module to others' attributes.
        (b"ctorch\n_utils.os.system\n.", "names 'torch._utils.os.system'"),
        (b"ctorch.serialization\nos.system\n.", "names 'torch.serialization.os.system'"),
        (b"ctorch\nload\n.", "names 'torch.load'"),
        (b"ctorch.storage\n_load_from_bytes\n.", "names 'torch.storage._load_from_bytes'"),
        (b"ctorch.hub\nload\n.", "names 'torch.hub.load'"),
        (b"cbuiltins\ngetattr\n.", "names 'builtins.getattr'"),
        (b"c__builtin__\neval\n.", "names 'builtins.eval'"),
        (b"cnumpy\nload\n.", "names 'numpy.load'"),
        (b"cfunctools\npartial\n.", "names 'functools.partial'"),
        (b"cmodels.common\nSPPCSPC\n.", "names 'models.common.SPPCSPC'"),
        # The two texts of STACK_GLOBAL may come from anywhere.
        (b"".join(SYSTEM) + b"\x93.", "names 'os.system'"),
        (SYSTEM[0] + b"q\x00" + SYSTEM[1] + b"q\x0100h\x00h\x01\x93.", "names 'os.system'"),
        (b"NN\x93.", "a name is made of something that is no text"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(cos\nsystem\no.", "names 'os.system'"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"\x83\x01\x00.", "EXT2"),
        (b"\x84\x01\x00\x00\x00.", "EXT4"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"\x98.", "READONLY_BUFFER"),
        (b"Pfile\n.", "PERSID"),
        (b"\xff.", "0xff is no operation"),
        (b"\x80\x06.", "protocol 6"),
        # What is on the list is no function to be called with anything.
        (glob("models.common Conv") + b"NR.", "it calls models.common.Conv with"),
        (b"X\x01\x00\x00\x00a)R.", "it calls a value of type str"),
        (glob("torch float32") + b")R.", "torch.float32, which is no class"),
        (glob("torch float32") + b")\x81.", "it makes an object of torch.float32"),
        (glob("torch._utils _rebuild_tensor_v2") + b")R.", "expected 4 to 7 arguments"),
        (b")\x81.", "it takes a value where there is none"),
        (b"]}b.", "it sets attributes of a value of type list"),
        (b"}(]K\x01u.", "a key is a value of type list"),
        (b"}((K\x01tK\x01u.", "a key is a value of type tuple"),
        (b"}(K\x01u.", "a key has no value"),
        (b"NK\x01a.", "it appends to a value of type NoneType"),
        (b"]K\x01K\x02s.", "it sets a key of a value of type list"),
        (b"h\x07.", "it recalls value 7"),
        (b"0.", "where there is none"),
        (b"t.", "up to a mark where there is none"),
        (b"(K\x01K\x02.", "left over"),
        (b"K\x01K\x02.", "left over"),
        (b".", "where there is none"),
        (b"X\xff\xff\xff\x7fabc.", "it ends early"),
        (b"\x8b\xff\xff\xff\x7f.", "it ends early"),
        (b"\x8e" + b"\xff" * 8 + b".", "it ends early"),
        (b"\x8a\x40" + b"\x01" * 64 + b".", "an integer has 64 bytes"),
        (b"I" + b"9" * 4000 + b"\n.", "is no integer"),
        (b"I" + b"9" * 5000 + b"\n.", "no end within 4096 bytes"),
        (b"Fx\n.", "is no number"),
        (b"cm\xfcller\nx\n.", "not plain text"),
        (b"", "it ends early"),
        (b"N.N.", "goes on after its end"),
    ],
)
def test_operations(tmp_path: Path, code: bytes, reason: str) -> None:
    assert reason in refused_pickle(tmp_path / "net.pt", code)


def test_too_much_of_everything(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    memo = b"".join(b"Nr" + struct.pack("<I", i) + b"0" for i in range(1_000_000))
    assert "more than 1000000 operations" in refused_pickle(path, memo + b"N.")
    assert "nested more than 1000 deep" in refused_pickle(path, b"(" * 100_000)
    # Memo numbers are only numbers.
    assert "holds" not in refused_pickle(path, b"Nr\xff\xff\xff\xff.")
    # One list, copied again and again.
    copies = b"](" + b"N" * 300_000 + b"eq\x00" + (glob("builtins set") + b"h\x00\x85R0") * 1000
    assert "copies more than" in refused_pickle(path, copies + b".")
    state = b"}(" + b"".join(Writer().code(str(i)) + b"N" for i in range(100_000)) + b"uq\x00"
    built = (glob("models.common Conv") + b")\x81h\x00b0") * 1000
    assert "copies more than" in refused_pickle(path, state + built + b".")
    # Deeply nested values, which Python itself could not walk through.
    deep = b"]" + b"\x85" * 900_000 + b"."
    assert "expected a network" in refused_pickle(path, deep)
    path.write_bytes(assemble.archive(bytes(33 << 20), {}))
    assert "more than 33554432 bytes" in refused(path)


def test_a_network_that_holds_itself(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    network = assemble.network()
    # A Sequential whose own child it is.
    loop = (
        glob("torch.nn.modules.container Sequential")
        + b")\x81q\x05"
        + b"}(X\x08\x00\x00\x00_modules}(X\x01\x00\x00\x000h\x05u"
        + b"X\x01\x00\x00\x00fJ\xff\xff\xff\xffub"
    )
    network.state["_modules"]["model"].state["_modules"]["0"] = Raw(loop)
    assemble.write(path, {"model": network})
    assert "nested more than 40 deep" in refused(path)
    # Each one holds the one before twice: 2 ** 30 modules in a few lines.
    doubled = Writer().code(assemble.module("torch.nn.modules.activation SiLU")) + b"q\x00"
    for i in range(30):
        children = b"}(X\x01\x00\x00\x000h\x00X\x01\x00\x00\x001h\x00u".replace(
            b"h\x00", b"h" + bytes([i])
        )
        doubled += b"0" + glob("torch.nn.modules.container Sequential") + b")\x81}"
        doubled += b"(X\x08\x00\x00\x00_modules" + children
        doubled += b"X\x01\x00\x00\x00fJ\xff\xff\xff\xffub" + b"q" + bytes([i + 1])
    network.state["_modules"]["model"].state["_modules"]["0"] = Raw(doubled)
    assemble.write(path, {"model": network})
    assert "more than 20000 modules" in refused(path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("FloatStorage", "9", 4, 0, (4,)), "refers to storage '9', which is not there"),
        (("FloatStorage", "0", 5, 0, (4,)), "has 20 bytes, but it has 16"),
        (("HalfStorage", "0", 4, 0, (4,)), "has 8 bytes, but it has 16"),
        (("FloatStorage", "0", 1 << 62, 0, (4,)), "refers to a storage of 4611686018427387904"),
        (("FloatStorage", "0", -1, 0, (4,)), "refers to a storage of -1 values"),
        (("FloatStorage", "0", 4.0, 0, (4,)), "refers to a storage of 4.0 values"),
        (("FloatStorage", "../data.pkl", 4, 0, (4,)), "which is not there"),
        (("FloatStorage", 0, 4, 0, (4,)), "refers to a storage of 4 values"),
        (("QInt8Storage", "0", 4, 0, (4,)), "names 'torch.QInt8Storage'"),
        (("FloatStorage", "0", 4, 0, (5,), (1,)), "reaches value 4 of a storage of 4"),
        (("FloatStorage", "0", 4, 1, (4,), (1,)), "reaches value 4 of a storage of 4"),
        (("FloatStorage", "0", 4, 0, (2, 2), (1,)), "2 extents and 1 strides"),
        (("FloatStorage", "0", 4, 0, (-1,), (1,)), "extents that are no sizes"),
        (("FloatStorage", "0", 4, -1, (2,), (1,)), "extents that are no sizes"),
        (("FloatStorage", "0", 4, 0, (2,), (-1,)), "extents that are no sizes"),
        (("FloatStorage", "0", 4, 0, (True,), (1,)), "extents that are no sizes"),
        (("FloatStorage", "0", 4, 0, (1,) * 17, (1,) * 17), "no list of sizes"),
    ],
)
def test_tensors_that_lie(tmp_path: Path, arguments: Any, reason: str) -> None:
    code = b"\x80\x02" + Writer().tensor_of(*arguments) + b"."
    path = tmp_path / "net.pt"
    path.write_bytes(assemble.archive(code, {"0": bytes(16)}))
    assert reason in refused(path)


def test_a_tensor_of_repeated_values_is_not_made(tmp_path: Path) -> None:
    writer = Writer()
    writer.storages["x"] = bytes(4)
    huge = writer.tensor_of("FloatStorage", "x", 1, 0, (1 << 20, 4, 1 << 10, 1 << 10), (0,) * 4)
    network = assemble.network()
    conv = network.state["_modules"]["model"].state["_modules"]["1"].state["_modules"]["conv"]
    conv.state["_parameters"]["weight"] = Raw(huge)
    path = assemble.write(tmp_path / "net.pt", {"model": network}, writer)
    assert "claims more than the 1 values" in refused(path)


def test_one_storage_under_two_types(tmp_path: Path) -> None:
    writer = Writer()
    writer.storages["0"] = bytes(16)
    code = b"\x80\x02(" + writer.tensor_of("FloatStorage", "0", 4, 0, (4,))
    code += writer.tensor_of("IntStorage", "0", 4, 0, (4,)) + b"t."
    path = tmp_path / "net.pt"
    path.write_bytes(assemble.archive(code, writer.storages))
    assert "two sizes or types" in refused(path)


def test_zips(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    writer = Writer()
    code = writer.dumps({"model": assemble.network()})
    sound = assemble.archive(code, writer.storages)
    # A bomb: what unpacks to a thousand times its size.
    path.write_bytes(assemble.archive(bytes(1 << 28), {}, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 20
    assert "has a compressed member" in refused(path)
    # Two entries of the index share one content.
    entry = sound.index(b"PK\x01\x02")
    end = sound.index(b"PK\x05\x06")
    second = sound.index(b"PK\x01\x02", entry + 1)
    overlapping = bytearray(sound)
    overlapping[second + 42 : second + 46] = sound[entry + 42 : entry + 46]
    path.write_bytes(overlapping)
    assert "header of member 'archive/byteorder' is another's" in refused(path)
    path.write_bytes(_nested())
    assert "member 'archive/data/1' overlaps another" in refused(path)
    for size in (1 << 31, 0xFFFFFFFE):
        large = bytearray(sound)
        large[second + 20 : second + 28] = struct.pack("<2I", size, size)
        path.write_bytes(large)
        assert "reaches past" in refused(path)
    many = bytearray(sound)
    many[end + 8 : end + 12] = struct.pack("<2H", 0xFFFE, 0xFFFE)
    path.write_bytes(many)
    assert "its index ends early" in refused(path)
    wrong = bytearray(sound)
    wrong[sound.index(b"archive/data/3") + 20] ^= 1
    path.write_bytes(wrong)
    assert "checksum of member 'archive/data/3'" in refused(path)
    path.write_bytes(sound + b"\0")
    assert "other bytes follow its end" in refused(path)


def _nested() -> bytes:
    """One member whose content is another member, header and all."""
    inner = zipfile.ZipInfo("archive/data/1")
    inner.CRC, inner.file_size, inner.compress_size = zlib.crc32(b"1234"), 4, 4
    blob = inner.FileHeader() + b"1234"
    sound = assemble.archive(b"N.", {"0": blob})
    index, end = sound.index(b"PK\x01\x02"), sound.rindex(b"PK\x05\x06")
    entry = struct.pack(
        *("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, inner.CRC, 4, 4),
        *(len(inner.filename), 0, 0, 0, 0, 0, sound.index(blob)),
    )
    directory = sound[index:end] + entry + inner.filename.encode()
    count = struct.unpack_from("<H", sound, end + 10)[0] + 1
    last = (b"PK\x05\x06", 0, 0, count, count, len(directory), index, 0)
    return sound[:index] + directory + struct.pack("<4s4H2IH", *last)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"N.")
        file.writestr("archive/code/__torch__.py", "import os")
        file.writestr("archive/constants.pkl", b").")
    assert "TorchScript program, and reading one runs it" in refused(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("word/document.xml", "")
    assert "torch.save did not write it" in refused(path)
    path.write_bytes(pickle.dumps({"model": 1}))
    assert "a pickle that torch.save did not write" in refused(path)
    path.write_bytes(b"GIF89a")
    assert "no file of torch.save" in refused(path)
    path.write_bytes(b"")
    assert "no file of torch.save" in refused(path)


def test_truncation_at_every_point(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    writer = Writer()
    code = writer.dumps({"model": assemble.network()})
    sizes = dict.fromkeys(writer.storages, 4)
    for sound in (
        assemble.archive(code, writer.storages),
        assemble.legacy(code, writer.storages, sizes),
    ):
        path.write_bytes(sound)
        import_model(path, size=SIZE)
        for end in range(0, len(sound), 61):
            path.write_bytes(sound[:end])
            refused(path)


def test_the_older_form_that_lies(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    writer = Writer()
    code = writer.dumps({"model": assemble.network()})
    sizes = dict.fromkeys(writer.storages, 4)
    sound = assemble.legacy(code, writer.storages, sizes)
    path.write_bytes(sound + b"\0")
    assert "bytes follow" in refused(path)
    last = max(writer.storages, key=int)
    fewer = {key: data for key, data in writer.storages.items() if key != last}
    path.write_bytes(assemble.legacy(code, fewer, sizes))
    assert f"storage '{last}' is not there" in refused(path)
    path.write_bytes(assemble.legacy(code, {**writer.storages, "x": b""}, {**sizes, "x": 4}))
    assert "storage 'x' is one too many" in refused(path)
    path.write_bytes(assemble.legacy(code, {**writer.storages, "0": b"1234"}, sizes))
    assert "says 1" in refused(path)


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    empty = b"}" * 900_000
    path.write_bytes(assemble.archive(b"(" + empty + b"t.", {}))
    program = (
        "import resource, sys\n"
        "from boxwright.errors import ImportFailedError\n"
        "from boxwright.importers import import_model\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: import_model(sys.argv[1], format='pytorch')\n"
        "except ImportFailedError: pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 400 << 10  # KiB
