"""Which plans run on which machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.backends.base import BuildSpec
from boxwright.backends.plans import Fingerprint
from boxwright.backends.tensorrt.compatibility import (
    Target,
    device_misfit,
    platform_name,
    version_misfit,
)

LINUX = "linux-x86-64"
H200 = Target(("sm90-NVIDIA-H200",), LINUX)
A10 = Target(("sm86-NVIDIA-A10",), LINUX)


@pytest.mark.parametrize(
    ("built", "here", "words"),
    [
        ("8.6.1+1", "8.6.1+1", None),
        ("8.6.1+1", "8.6.2+1", "not built version_compatible"),
        ("8.6.1+1", "10.9.0.34+1", "not built version_compatible"),
        # A build like the one here is wanted, so its marks say nothing against the plan.
        ("8.6.1+1", "8.6.1+1+vc", None),
        ("8.6.1+1+vc", "8.6.1+1", None),
        ("8.6.0+1+vc", "8.6.1+1", None),
        ("8.6.1+1+vc", "8.6.0+1", "an older TensorRT is here"),
        ("8.6.1+1+vc", "10.9.0.34+1", None),
        ("10.0.1.6+1+vc", "10.9.0.34+1", None),
        ("10.9.0.34+1+vc", "11.1.0.106+1", None),
        ("8.6.1+1+vc", "11.1.0.106+1", "up to the next major version"),
        ("10.9.0.34+1+vc", "8.6.1+1", "an older TensorRT is here"),
        ("11.1.0.106+1+vc", "10.9.0.34+1", "an older TensorRT is here"),
        # What Boxwright makes of a model has changed meanwhile.
        ("8.6.1+1", "8.6.1+2", "version 8.6.1+1 (here 8.6.1+2)"),
        ("8.6.1+1+vc", "10.9.0.34+2", "(here 10.9.0.34+2)"),
        # A plan without weights is another thing than one with.
        ("10.9.0.34+1+strip", "10.9.0.34+1", "(here 10.9.0.34+1)"),
        ("10.9.0.34+1", "10.9.0.34+1+strip", "(here 10.9.0.34+1+strip)"),
        ("10.9.0.34+1+strip", "10.9.0.34+1+strip", None),
        ("10.9.0.34+1+vc+strip", "11.1.0.106+1+strip", None),
        # From a file, so anything may stand there.
        ("", "8.6.1+1", "version"),
        ("+", "8.6.1+1", "version"),
        ("x.y+1+vc", "8.6.1+1", "an older TensorRT"),
        ("8+1+vc", "10.9.0.34+1", None),
        ("9.0+1+vc", "10.9.0.34+1", "up to the next major"),
    ],
)
def test_versions(built: str, here: str, words: str | None) -> None:
    found = version_misfit(built, here)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found


def misfit(
    device: str, capability: tuple[int, int], own: Target, backend: str = "tensorrt"
) -> str | None:
    built = Fingerprint.of(backend, "8.6.1+1", device, BuildSpec())
    return device_misfit(built, capability, own)


@pytest.mark.parametrize(
    ("device", "capability", "own", "words"),
    [
        (str(H200), (9, 0), H200, None),
        (str(A10), (9, 0), H200, "device sm86-NVIDIA-A10+linux-x86-64 (here sm90-NVIDIA-H200"),
        # Of one compute capability, and still another GPU: other kernels were the fastest.
        ("sm86-NVIDIA-RTX-A6000+linux-x86-64", (8, 6), A10, "device sm86-NVIDIA-RTX-A6000"),
        # Built with hardware=same-compute-capability
        ("sm86+linux-x86-64", (8, 6), A10, None),
        ("sm86+linux-x86-64", (9, 0), H200, "device sm86"),
        # Built with hardware=ampere-plus
        ("ampere-plus+linux-x86-64", (8, 0), A10, None),
        ("ampere-plus+linux-x86-64", (12, 0), H200, None),
        ("ampere-plus+linux-x86-64", (7, 5), Target(("sm75-T4",), LINUX), "needs an Ampere GPU"),
        ("ampere-plus+linux-x86-64", (7, 0), Target(("sm70",), LINUX), "here is sm70"),
        # Another system or processor
        ("ampere-plus+windows-x86-64", (9, 0), H200, "device ampere-plus+windows"),
        ("sm90-NVIDIA-H200+linux-arm64", (9, 0), H200, "linux-arm64"),
        # A DLA is not a GPU
        ("sm87-Orin+linux-arm64+dla0", (8, 7), Target(("sm87-Orin",), "linux-arm64"), "dla0"),
        (
            *("sm87-Orin+linux-arm64+dla0", (8, 7)),
            *(Target(("sm87-Orin",), "linux-arm64", "dla0"), None),
        ),
        (
            *("sm87-Orin+linux-arm64+dla0", (8, 7)),
            *(Target(("sm87-Orin",), "linux-arm64", "dla1"), "dla0"),
        ),
        # Several, as TensorRT-RTX builds
        ("sm86+sm89+sm120+linux-x86-64", (8, 9), A10, None),
        ("sm86+sm89+sm120+linux-x86-64", (12, 0), A10, None),
        ("sm86+sm89+sm120+linux-x86-64", (8, 0), A10, "device sm86+sm89"),
        # From a file
        ("", (9, 0), H200, "device  (here"),
        ("linux-x86-64", (9, 0), H200, "device linux"),
        ("+", (9, 0), H200, "device +"),
        ("dla0", (9, 0), H200, "device dla0"),
        ("sm90+linux-x86-64+dla0+dla1", (9, 0), H200, "device"),
    ],
)
def test_devices(device: str, capability: tuple[int, int], own: Target, words: str | None) -> None:
    found = misfit(device, capability, own)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words in found


@pytest.mark.parametrize(
    "target",
    [
        *(H200, Target(("ampere-plus",), LINUX), Target(("sm86", "sm89"), LINUX)),
        *(Target(("sm87-Orin",), "linux-arm64", "dla1"), Target(("sm86",), "windows-x86-64")),
    ],
)
def test_targets_survive_a_fingerprint(target: Target) -> None:
    written = Fingerprint.of("tensorrt", "8.6.1+1", str(target), BuildSpec())
    again = Fingerprint.parse(str(written))
    assert again is not None
    assert Target.parse(again.device) == target


@given(st.text(), st.text())
def test_no_text_from_a_file_is_too_strange(one: str, other: str) -> None:
    assert isinstance(version_misfit(one, other), str | None)
    target = Target.parse(one)
    assert target is None or str(target) == one
    assert isinstance(misfit(one, (9, 0), H200), str | None)


def test_this_platform_has_a_name_that_fits_into_a_fingerprint() -> None:
    for system in ("linux", "win32", "darwin"):
        name = platform_name(system)
        assert Fingerprint.of("x", "1", name, BuildSpec()).device == name
    assert platform_name("win32").startswith("windows-")
