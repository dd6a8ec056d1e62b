"""Which kind of machine this is, of those the doctor has commands for."""

from __future__ import annotations

from dataclasses import dataclass

from boxwright.doctor.compatibility import Version, numbers
from boxwright.doctor.facts import Facts


@dataclass(frozen=True)
class Platform:
    """A kind of machine, and what may be assumed of one that is not at hand.

    Attributes:
        name: What ``--platform`` takes.
        title: For people.
        gpu: Compute capability of its GPU, where the platform has one of one kind.
        nvidia: Whether it has an NVIDIA GPU at all.
        architecture: As :func:`boxwright.environment.cpu_architecture` gives it.
        python: The system's Python, where it is fixed.
    """

    name: str
    title: str
    gpu: Version | None = None
    nvidia: bool = False
    architecture: str = "x86-64"
    python: Version | None = None


_ALL = (
    Platform("linux-cpu", "Linux without an NVIDIA GPU"),
    Platform("linux-nvidia", "Linux with an NVIDIA GPU", nvidia=True),
    # docs.aws.amazon.com/ec2, accelerated computing instances; the GPUs' compute capability:
    # developer.nvidia.com/cuda-gpus.
    Platform("ec2-g4dn", "EC2 g4dn (T4)", (7, 5), nvidia=True),
    Platform("ec2-g5", "EC2 g5 (A10G)", (8, 6), nvidia=True),
    Platform("ec2-g6", "EC2 g6 (L4)", (8, 9), nvidia=True),
    Platform("ec2-p4", "EC2 p4 (A100)", (8, 0), nvidia=True),
    Platform("ec2-p5", "EC2 p5 (H100, H200)", (9, 0), nvidia=True),
    Platform("jetson-jp4", "Jetson with JetPack 4", None, True, "arm64", (3, 6)),
    Platform("jetson-jp5", "Jetson with JetPack 5", None, True, "arm64", (3, 8)),
    Platform("jetson-jp6", "Jetson with JetPack 6", (8, 7), True, "arm64", (3, 10)),
    Platform("jetson-jp7", "Jetson with JetPack 7", None, True, "arm64", (3, 12)),
    Platform("wsl", "Windows Subsystem for Linux 2 with an NVIDIA GPU", nvidia=True),
    Platform("container", "a container", nvidia=True),
    Platform("windows", "Windows without an NVIDIA GPU"),
    Platform("windows-nvidia", "Windows with an NVIDIA GPU", nvidia=True),
    Platform("macos", "macOS", architecture="arm64"),
)

PLATFORMS: dict[str, Platform] = {platform.name: platform for platform in _ALL}


def identify(facts: Facts) -> Platform:
    """The platform that the facts are of."""
    return PLATFORMS[_name(facts)]


def _name(facts: Facts) -> str:
    system, nvidia = facts.system, facts.nvidia
    if facts.jetson is not None:
        return f"jetson-jp{jetpack_major(facts)}"
    if system.name == "Darwin":
        return "macos"
    has_gpu = bool(nvidia.gpus or nvidia.on_pci or nvidia.driver or nvidia.kernel_module)
    if system.name == "Windows":
        return "windows-nvidia" if has_gpu else "windows"
    if system.wsl:
        return "wsl"
    if system.container is not None:
        return "container"
    family = (system.ec2 or "").split(".")[0]
    for name in PLATFORMS:
        # g5g is another thing: an ARM processor with a T4G.
        if (
            name.startswith("ec2-")
            and family != "g5g"
            and family.startswith(name.removeprefix("ec2-"))
        ):
            return name
    return "linux-nvidia" if has_gpu else "linux-cpu"


def jetpack_major(facts: Facts) -> int:
    """JetPack's major version, 4 to 7; an unknown newer one counts as the newest."""
    jetson = facts.jetson
    if jetson is None:
        return 0
    jetpack = numbers(jetson.jetpack)
    if jetpack:
        return min(max(jetpack[0], 4), 7)
    # Jetson Linux 32 is JetPack 4, 34 and 35 are 5, 36 is 6, 38 and newer are 7.
    release = numbers(jetson.l4t)[0]
    return 4 if release < 34 else 5 if release < 36 else 6 if release < 37 else 7
