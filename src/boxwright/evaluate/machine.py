"""The machine while it is measured: how busy, how fast, how much energy.

Everything is read from Linux's ``/proc`` and ``/sys`` and from NVML. What a machine does
not tell is left out; nothing here raises.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from boxwright import nvml as gpu
from boxwright.environment import describe_environment, usable_cores

# Above these the machine is called noisy: where they are exceeded, a difference of a few
# per cent between two contenders may be the machine's.
MAX_VARIATION = 0.05
MAX_OTHERS = 0.1
MAX_STEAL = 0.01
MAX_FREQUENCY_CHANGE = 0.05

_ROOT = Path("/")


@dataclass(frozen=True)
class Snapshot:
    """The machine at one moment; ``None`` and empty where it does not tell.

    Attributes:
        seconds: On a monotonic clock.
        own_cpu: Processor seconds this process has used.
        busy: Processor seconds everybody has used, since boot.
        steal: Seconds the hypervisor gave to other guests, since boot.
        load: Load average of the last minute.
        frequency_mhz: Mean over the processors.
        governors: Of cpufreq, each once.
        throttled: How often cgroup or temperature limits held this machine back.
        gpus: As `boxwright.nvml` describes them.
    """

    seconds: float
    own_cpu: float
    busy: float | None = None
    steal: float | None = None
    load: float | None = None
    frequency_mhz: float | None = None
    governors: tuple[str, ...] = ()
    throttled: int | None = None
    gpus: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What a reader may want of one moment; JSON values."""
        facts: dict[str, Any] = {
            "load_average": self.load,
            "frequency_mhz": None if self.frequency_mhz is None else round(self.frequency_mhz),
            "governors": list(self.governors) or None,
            "gpus": list(self.gpus) or None,
        }
        return {name: value for name, value in facts.items() if value is not None}


def snapshot(root: Path = _ROOT) -> Snapshot:
    """Read the machine now; `root` stands in for ``/`` in tests."""
    busy, steal = _processor_seconds(root)
    load = _words(root / "proc/loadavg")
    throttled = [value for value in (_cgroup_throttled(root), _thermal_events(root))
                 if value is not None]  # fmt: skip
    return Snapshot(
        time.monotonic(),
        time.process_time(),
        busy,
        steal,
        _float(load[0]) if load else None,
        _frequency(root),
        _governors(root),
        sum(throttled) if throttled else None,
        tuple(gpu.describe_gpus()) if root == _ROOT else (),
    )


@dataclass(frozen=True)
class Noise:
    """How far the machine can be trusted to have measured only what was asked.

    Attributes:
        variation: Largest coefficient of variation of round medians.
        others: Cores that other processes kept busy, on average.
        steal: Share of the machine's time the hypervisor gave to others.
        reasons: Why the numbers are to be taken with care; empty where nothing was seen.
    """

    variation: float
    others: float | None
    steal: float | None
    reasons: tuple[str, ...]

    @property
    def noisy(self) -> bool:
        """Whether there is a reason for care."""
        return bool(self.reasons)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "noisy": self.noisy,
            "reasons": list(self.reasons),
            "variation": round(self.variation, 4),
            "other_processes_cores": None if self.others is None else round(self.others, 3),
            "steal_share": None if self.steal is None else round(self.steal, 4),
        }


def judge(before: Snapshot, after: Snapshot, variations: Mapping[str, float], cores: int) -> Noise:
    """Say whether the time between two snapshots was quiet.

    Args:
        before: Taken before the first measurement.
        after: Taken after the last.
        variations: Coefficient of variation of round medians, by what was measured.
        cores: Logical processors of the machine.
    """
    elapsed = max(after.seconds - before.seconds, 1e-9)
    others = steal = None
    if before.busy is not None and after.busy is not None:
        # The kernel counts in hundredths of a second, so a difference may be below 0.
        own = after.own_cpu - before.own_cpu
        others = max(0.0, (after.busy - before.busy - own) / elapsed)
    if before.steal is not None and after.steal is not None:
        steal = max(0.0, (after.steal - before.steal) / (elapsed * cores))
    worst = max(variations, key=lambda name: variations[name], default="")
    spread = variations.get(worst, 0.0)
    reasons = []
    if spread > MAX_VARIATION:
        reasons.append(
            f"round medians of {worst} vary by {100 * spread:.0f} % (standard deviation / mean)"
        )
    if others is not None and others > MAX_OTHERS:
        reasons.append(f"other processes kept {others:.1f} of {cores} cores busy")
    if steal is not None and steal > MAX_STEAL:
        reasons.append(f"the hypervisor gave {100 * steal:.0f} % of the time to other guests")
    reasons += _frequency_reasons(before, after)
    if before.throttled is not None and (after.throttled or 0) > before.throttled:
        reasons.append("the processor was throttled (heat, or a CPU quota)")
    for device in after.gpus:
        held = sorted(set(device.get("throttling", ())) - gpu.HARMLESS_REASONS)
        if held:
            reasons.append(f"GPU {device['index']} was held back: {', '.join(held)}")
    return Noise(spread, others, steal, tuple(reasons))


def _frequency_reasons(before: Snapshot, after: Snapshot) -> list[str]:
    first, last = before.frequency_mhz, after.frequency_mhz
    if not first or not last or abs(last - first) <= MAX_FREQUENCY_CHANGE * first:
        return []
    return [f"the processor's clock went from {first:.0f} to {last:.0f} MHz"]


def describe_machine(root: Path = _ROOT) -> dict[str, Any]:
    """`boxwright.environment.describe_environment`, and what only speed depends on."""
    facts = describe_environment()
    for name, value in (
        ("physical_cores", physical_cores(root)),
        ("cpu_quota_cores", cpu_quota(root)),
        ("memory_mib", _memory_mib(root)),
    ):
        if value is not None:
            facts[name] = value
    return facts


def default_threads(root: Path = _ROOT) -> int:
    """One thread per physical core this process may use, and no more than its CPU quota.

    It is what ONNX Runtime chooses by itself; a second thread per core rarely helps
    convolutions.
    """
    cores = physical_cores(root) or usable_cores()
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def physical_cores(root: Path = _ROOT) -> int | None:
    """Physical cores among the processors this process may run on."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    siblings = set()
    for number in os.sched_getaffinity(0):
        path = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        words = _words(path)
        if not words:
            return None
        siblings.add(words[0])
    return len(siblings) or None


def cpu_quota(root: Path = _ROOT) -> float | None:
    """How many cores' worth of time the cgroup allows, or ``None`` for no limit."""
    words = _words(root / "sys/fs/cgroup/cpu.max")  # version 2: "max 100000", "150000 100000"
    if len(words) == 2:
        quota, period = _float(words[0]), _float(words[1])
    else:
        quota = _single(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")  # -1: no limit
        period = _single(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota is None or not period or quota <= 0:
        return None
    return round(quota / period, 2)


@dataclass
class EnergyMeter:
    """Counts joules by the counters this machine lets us read, by the device's name.

    Use it as a context manager; :meth:`read` gives totals, and only differences of two
    readings mean anything. Intel and AMD processors count through RAPL, which most
    systems let only root read; NVIDIA GPUs from Volta on through NVML.

    Attributes:
        gpus: Numbers of the GPUs that take part; one that idles is nobody's energy.
        root: Stands in for ``/`` in tests.
        nvml_library: Stands in for the driver's library in tests.
    """

    gpus: tuple[int, ...] = ()
    root: Path = _ROOT
    nvml_library: Any = None
    _rapl: list[_Rapl] = field(default_factory=list, init=False)
    _nvml: gpu.Nvml | None = field(default=None, init=False)
    _opened: Any = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._rapl = [zone for zone in map(_Rapl, _rapl_zones(self.root)) if zone.readable]
        if self.gpus:
            self._opened = gpu.open_nvml(self.nvml_library)
            self._nvml = self._opened.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._opened is not None:
            self._opened.__exit__(kind, error, trace)
        self._opened = self._nvml = None

    def read(self) -> dict[str, float]:
        """Joules so far per device; empty where none can be read."""
        joules = {zone.name: zone.total() for zone in self._rapl}
        if self._nvml is not None:
            for index in self.gpus:
                used = self._nvml.energy_joules(index)
                if used is not None:
                    joules[f"gpu {index}"] = used
        return joules


class _Rapl:
    """One energy zone; its counter starts over when it is full."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "energy_uj"
        self._range = _single(folder / "max_energy_range_uj") or 0.0
        # Sockets are all called "package-0", "package-1"; the folder tells zones apart.
        self.name = f"cpu {' '.join(_words(folder / 'name')) or folder.name}"
        self._last = _single(self._path)
        self._total = 0.0

    @property
    def readable(self) -> bool:
        return self._last is not None

    def total(self) -> float:
        now = _single(self._path)
        if now is not None and self._last is not None:
            step = now - self._last
            self._total += step if step >= 0 else step + self._range
            self._last = now
        return self._total / 1e6


def _rapl_zones(root: Path) -> list[Path]:
    """Whole packages only: their parts (core, uncore) would be counted twice."""
    try:
        zones = sorted((root / "sys/class/powercap").iterdir())
    except OSError:
        return []
    return [zone for zone in zones if re.fullmatch(r"intel-rapl:\d+", zone.name)]


def _processor_seconds(root: Path) -> tuple[float | None, float | None]:
    """Busy and stolen seconds since boot, from the first line of ``/proc/stat``."""
    words = _words(root / "proc/stat")
    if len(words) < 9 or words[0] != "cpu" or not hasattr(os, "sysconf"):
        return None, None
    try:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, words[1:9])
    except ValueError:
        return None, None
    ticks = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / ticks, steal / ticks


def _frequency(root: Path) -> float | None:
    kilohertz = [
        value
        for path in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
        if (value := _single(path / "scaling_cur_freq")) is not None
    ]
    if kilohertz:
        return sum(kilohertz) / len(kilohertz) / 1000
    text = _text(root / "proc/cpuinfo")
    megahertz = [float(found) for found in re.findall(r"(?m)^cpu MHz\s*:\s*([\d.]+)\s*$", text)]
    return sum(megahertz) / len(megahertz) if megahertz else None


def _governors(root: Path) -> tuple[str, ...]:
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({word for path in paths for word in _words(path)}))


def _cgroup_throttled(root: Path) -> int | None:
    for path in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
        found = re.search(r"(?m)^nr_throttled (\d+)$", _text(root / path))
        if found:
            return int(found[1])
    return None


def _thermal_events(root: Path) -> int | None:
    pattern = "cpu[0-9]*/thermal_throttle/*_throttle_count"
    counts = [_single(path) for path in (root / "sys/devices/system/cpu").glob(pattern)]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def _memory_mib(root: Path) -> int | None:
    found = re.search(r"(?m)^MemTotal:\s*(\d+) kB$", _text(root / "proc/meminfo"))
    return int(found[1]) // 1024 if found else None


def _single(path: Path) -> float | None:
    words = _words(path)
    return _float(words[0]) if words else None


def _float(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _words(path: Path) -> list[str]:
    return next(iter(_text(path).splitlines()), "").split()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
