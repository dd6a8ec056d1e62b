"""Collecting the facts of what is installed, and whether it can be imported."""

from __future__ import annotations

import json
import re
from typing import Any

from boxwright.doctor import probe
from boxwright.doctor.compatibility import numbers
from boxwright.doctor.facts import BackendCheck, ModuleCheck, Requirement, TensorRt
from boxwright.doctor.machine import Machine, Outcome, normalised

# Runtimes that are imported to see whether they can be; the native ones are what breaks.
MODULES = ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")
MODULE_SECONDS = 20.0
BACKENDS_SECONDS = 30.0

_DETAILS = ("providers", "devices", "cuda_error")
_PROBE = "boxwright.doctor.probe"
_DPKG_SECONDS = 5.0
_SYSTEM_PACKAGES = ("libnvinfer[0-9]*", "python3-libnvinfer*", "nvidia-jetpack", "nvidia-l4t-core")

_RELEVANT = re.compile(
    r"boxwright|numpy|onnx|onnxruntime(-.*)?|opencv-.*|openvino|pillow|torch|tensorrt.*"
    r"|cuda-(core|bindings|python|toolkit)|nvidia-(cuda-runtime|cuda-nvrtc|cublas|cudnn)(-cu\d+)?"
)

# What may stand in for a requirement: it brings the same module.
_STAND_INS = {
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "opencv-python-headless": (
        *("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
}
_SPECIFIER = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([\w.*+!]+)")
# Requirements of development are the developer's own business.
_IGNORED_EXTRAS = ("dev",)


def relevant(packages: dict[str, str]) -> dict[str, str]:
    """Those packages that any of our runtimes is made of."""
    return {name: packages[name] for name in sorted(packages) if _RELEVANT.fullmatch(name)}


def check_modules(machine: Machine) -> dict[str, ModuleCheck]:
    """Import each installed runtime in a process of its own."""
    return {name: check_module(machine, name) for name in MODULES if machine.has_module(name)}


def check_module(machine: Machine, name: str) -> ModuleCheck:
    """Import one runtime in a process of its own."""
    done = machine.run_python(_PROBE, ("module", name), MODULE_SECONDS)
    answers = _answers(done)
    if not answers:
        return ModuleCheck(_failure(done), error=_last_words(done))
    (answer,) = answers
    error = answer.get("error")
    # NumPy's complaint about another binary interface goes to stderr, not into the error.
    if error and "_ARRAY_API" in done.stderr:
        error = f"{error}; {_last_words(done)}"
    details: dict[str, Any] = {key: answer[key] for key in _DETAILS if key in answer}
    return ModuleCheck("broken" if error else "ok", answer.get("version"), error, details)


def check_backends(machine: Machine) -> tuple[BackendCheck, ...]:
    """Ask every backend; one that crashes the process costs the others nothing."""
    from boxwright.backends.registry import names

    left, found = list(names()), dict[str, BackendCheck]()
    while left:
        done = machine.run_python(_PROBE, ("backends", *left), BACKENDS_SECONDS)
        for answer in _answers(done):
            found[answer["name"]] = _backend_check(answer)
        left = [name for name in left if name not in found]
        if left:
            # It began one and gave no answer. Without even that, none can be asked.
            begun = _begun(done)
            culprits = [begun] if begun in left else list(left)
            reason = _reason(done)
            for name in culprits:
                found[name] = BackendCheck(name, works=False, reason=reason)
            left = [name for name in left if name not in culprits]
    return tuple(found[name] for name in names())


def _backend_check(answer: dict[str, Any]) -> BackendCheck:
    if "error" in answer:
        return BackendCheck(answer["name"], works=False, reason=answer["error"])
    precisions = answer.get("precisions")
    return BackendCheck(
        answer["name"],
        works=bool(answer["works"]),
        reason=answer.get("reason"),
        precisions=None if precisions is None else tuple(precisions),
        devices=tuple(answer.get("devices", ())),
        note=answer.get("note"),
    )


def _answers(done: Outcome) -> list[dict[str, Any]]:
    lines = (line for line in done.stdout.splitlines() if line.startswith(probe.ANSWER))
    return [json.loads(line.removeprefix(probe.ANSWER)) for line in lines]


def _begun(done: Outcome) -> str | None:
    lines = [line for line in done.stdout.splitlines() if line.startswith(probe.BEGIN)]
    return lines[-1].removeprefix(probe.BEGIN).strip() if lines else None


def _failure(done: Outcome) -> str:
    if done.timed_out:
        return "hung"
    return "crashed" if done.crashed else "broken"


def _reason(done: Outcome) -> str:
    words = {
        "hung": "asking it took too long and was stopped",
        "crashed": f"asking it crashes the process: {_last_words(done)}",
    }
    return words.get(_failure(done), f"asking it ends the process: {_last_words(done)}")


def _last_words(done: Outcome) -> str:
    if done.timed_out:
        return "stopped for taking too long"
    if done.code is not None and done.code < 0:
        import signal

        name = signal.strsignal(-done.code) or "?"
        return f"signal {-done.code} ({name})"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit status {done.code}"


def system_packages(machine: Machine) -> dict[str, str]:
    """TensorRT's and Jetson's packages that dpkg has installed, with their versions."""
    form = "--showformat=${db:Status-Abbrev} ${Package} ${Version}\n"
    done = machine.run(["dpkg-query", "--show", form, *_SYSTEM_PACKAGES], _DPKG_SECONDS)
    fields = (line.split() for line in done.stdout.splitlines())  # it fails where one is absent
    return {line[1]: line[2] for line in fields if len(line) == 3 and line[0] == "ii"}


def tensorrt(machine: Machine, packages: dict[str, str], installed: dict[str, str]) -> TensorRt:
    """TensorRT as pip and dpkg see it."""
    ours = {
        name: version
        for name, version in packages.items()
        if re.fullmatch(r"tensorrt(-cu\d+)?(-libs|-bindings)?", name)
    }
    system = {name: version for name, version in installed.items() if "nvinfer" in name}
    version, cuda = None, None
    if ours:
        # The bindings are what is imported; "tensorrt" alone only names the others.
        first = sorted(ours, key=lambda name: (not name.endswith("-bindings"), name))[0]
        version = ours[first]
        majors = {int(found[1]) for name in ours if (found := re.search(r"-cu(\d+)", name))}
        majors = majors or _cuda_majors(machine, "tensorrt-libs", "tensorrt")
        cuda = max(majors) if majors else None
    elif system:
        library = system.get("python3-libnvinfer") or sorted(system.values())[0]
        version = ".".join(map(str, numbers(library)))
        built = re.search(r"\+cuda(\d+)", library)
        cuda = int(built[1]) if built else None
    return TensorRt(version, cuda, dict(sorted(ours.items())), dict(sorted(system.items())))


def tensorrt_rtx(packages: dict[str, str]) -> str | None:
    """Version of TensorRT-RTX; ``None`` without it."""
    return packages.get("tensorrt-rtx")


def torch_cuda(machine: Machine, packages: dict[str, str]) -> str | None:
    """CUDA version torch was built for, read from its own file: importing it takes seconds."""
    if "torch" not in packages:
        return None
    found = re.search(
        r"(?m)^cuda\b[^=]*= ['\"]([\d.]+)", machine.module_file("torch", "version.py") or ""
    )
    return found[1] if found else None


def ort_gpu_cuda(machine: Machine, packages: dict[str, str]) -> int | None:
    """CUDA major onnxruntime-gpu was built for, by the packages its extras name."""
    if "onnxruntime-gpu" not in packages:
        return None
    majors = _cuda_majors(machine, "onnxruntime-gpu")
    return max(majors) if majors else None


def _cuda_majors(machine: Machine, *names: str) -> set[int]:
    """CUDA majors in what packages require: ``nvidia-cuda-runtime-cu12``, ``...~=13.0``."""
    majors = set()
    for name in names:
        for line in machine.requires(name):
            found = re.match(r"nvidia-cuda-(?:runtime|nvrtc)(?:-cu(\d+)|\s*[~=>(]+\s*(\d+))", line)
            if found:
                majors.add(int(found[1] or found[2]))
    return majors


def requirements(machine: Machine, packages: dict[str, str]) -> tuple[Requirement, ...]:
    """Boxwright's requirements, those of its extras too, and what there is of each."""
    found = []
    for line in machine.requires("boxwright"):
        text, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        name = re.match(r"[\w.-]+", text.strip())
        if name is None or (extra and extra[1] in _IGNORED_EXTRAS):
            continue
        package = normalised(name[0])
        wanted = re.sub(r"\[[^]]*\]", "", text.strip()[len(name[0]) :]).strip()
        installed = packages.get(package)
        for stand_in in _STAND_INS.get(package, ()):
            installed = installed or packages.get(stand_in)
        fits = installed is not None and satisfies(installed, wanted)
        found.append(Requirement(package, wanted, installed, fits, extra[1] if extra else None))
    return tuple(found)


def satisfies(version: str, wanted: str) -> bool:
    """Whether a version is among those wanted.

    Understands the comparisons of PEP 440 on plain numbers, which is what our own
    requirements use; a condition of another form is taken as met.
    """
    have = numbers(version)
    for operator, text in _SPECIFIER.findall(wanted):
        want = numbers(text)
        if not want or not have:
            continue
        length = max(len(have), len(want))
        left, right = _padded(have, length), _padded(want, length)
        prefix = have[: len(want)] == want
        met = {
            ">=": left >= right,
            "<=": left <= right,
            "<": left < right,
            ">": left > right,
            "==": prefix if text.endswith("*") else left == right,
            "!=": not prefix if text.endswith("*") else left != right,
            "~=": left >= right and have[: len(want) - 1] == want[:-1],
        }[operator]
        if not met:
            return False
    return True


def _padded(version: tuple[int, ...], length: int) -> tuple[int, ...]:
    return version + (0,) * (length - len(version))
