"""What Linux tells of the machine, read from a folder that plays ``/``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from boxwright.evaluate import machine
from boxwright.evaluate.machine import EnergyMeter, Snapshot, judge, snapshot

TICKS = os.sysconf("SC_CLK_TCK")


def _write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # user nice system idle iowait irq softirq steal guest guest_nice
    _write(tmp_path, "proc/stat", "cpu  100 20 30 9999 5 4 6 50 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    _write(tmp_path, "proc/loadavg", "1.50 0.90 0.70 2/345 6789\n")
    _write(tmp_path, "proc/meminfo", "MemTotal:        2048000 kB\nMemFree: 1 kB\n")
    for number, kilohertz in enumerate((2_000_000, 3_000_000)):
        folder = f"sys/devices/system/cpu/cpu{number}"
        _write(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", f"{kilohertz}\n")
        _write(tmp_path, f"{folder}/cpufreq/scaling_governor", "powersave\n")
        _write(tmp_path, f"{folder}/thermal_throttle/core_throttle_count", "3\n")
        _write(tmp_path, f"{folder}/topology/thread_siblings_list", "0-1\n")
    _write(tmp_path, "sys/fs/cgroup/cpu.stat", "usage_usec 1\nnr_periods 9\nnr_throttled 4\n")
    _write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    return tmp_path


def test_a_snapshot_reads_what_there_is(root: Path) -> None:
    found = snapshot(root)
    assert found.busy == pytest.approx(160 / TICKS)  # neither idle, waiting nor stolen
    assert found.steal == pytest.approx(50 / TICKS)
    assert found.load == 1.5
    assert found.frequency_mhz == 2500
    assert found.governors == ("powersave",)
    assert found.throttled == 2 * 3 + 4
    assert found.to_dict() == {
        "load_average": 1.5,
        "frequency_mhz": 2500,
        "governors": ["powersave"],
    }


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    found = snapshot(tmp_path)
    assert found.to_dict() == {}
    assert (found.busy, found.steal, found.throttled) == (None, None, None)
    assert machine.cpu_quota(tmp_path) is None
    with EnergyMeter(root=tmp_path) as meter:
        assert meter.read() == {}
    quiet = judge(found, found, {}, 2)
    assert not quiet.noisy
    assert (quiet.others, quiet.steal) == (None, None)


def test_garbage_is_no_error(tmp_path: Path) -> None:
    for path in ("proc/stat", "proc/loadavg", "proc/meminfo", "sys/fs/cgroup/cpu.max"):
        _write(tmp_path, path, "cpu a b\x00c d e f g h i\n")
    assert snapshot(tmp_path).to_dict() == {}
    assert machine.cpu_quota(tmp_path) is None


def test_frequency_comes_from_cpuinfo_where_cpufreq_is_absent(tmp_path: Path) -> None:
    _write(tmp_path, "proc/cpuinfo", "cpu MHz\t\t: 2000.0\nflags: x\ncpu MHz\t\t: 2200.0\n")
    assert snapshot(tmp_path).frequency_mhz == 2100


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
        ({"sys/fs/cgroup/cpu.max": "max 100000"}, None),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
    ],
    ids=["v2", "v2 unlimited", "v1", "v1 unlimited"],
)
def test_quotas(tmp_path: Path, files: dict[str, str], expected: float | None) -> None:
    for path, text in files.items():
        _write(tmp_path, path, text)
    assert machine.cpu_quota(tmp_path) == expected


def test_threads_are_physical_cores_within_the_quota(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert machine.physical_cores(root) == 1  # two threads of one core
    for number in range(2):
        folder = f"sys/devices/system/cpu/cpu{number}/topology"
        _write(root, f"{folder}/thread_siblings_list", f"{number}\n")
    assert machine.physical_cores(root) == 2
    assert machine.default_threads(root) == 1  # a quota of 1.5
    _write(root, "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert machine.default_threads(root) == 2


def test_energy_survives_a_counter_that_starts_over(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    _write(tmp_path, f"{zone}/name", "package-0\n")
    _write(tmp_path, f"{zone}/max_energy_range_uj", "10000000\n")
    _write(tmp_path, f"{zone}/energy_uj", "9000000\n")
    # Part of the package: counting it too would count twice.
    _write(tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", "5\n")
    with EnergyMeter(root=tmp_path) as meter:
        assert meter.read() == {"cpu package-0": 0.0}
        _write(tmp_path, f"{zone}/energy_uj", "500000\n")
        assert meter.read()["cpu package-0"] == pytest.approx(1.5)


QUIET = Snapshot(100.0, 10.0, busy=500.0, steal=5.0, frequency_mhz=2000.0, throttled=1)


@pytest.mark.parametrize(
    ("after", "variation", "reason"),
    [
        ({}, 0.01, None),
        ({}, 0.08, "round medians of x vary by 8 %"),
        ({"busy": 518.0}, 0.0, None),  # all of it our own
        ({"busy": 523.0}, 0.0, "other processes kept 0.5 of 2 cores busy"),
        ({"steal": 6.0}, 0.0, "hypervisor gave 5 % of the time"),
        ({"frequency_mhz": 1500.0}, 0.0, "clock went from 2000 to 1500 MHz"),
        ({"throttled": 2}, 0.0, "throttled"),
        ({"gpus": ({"index": 0, "throttling": ["idle"]},)}, 0.0, None),
        ({"gpus": ({"index": 0, "throttling": ["power cap"]},)}, 0.0, "GPU 0 was held back"),
    ],
)
def test_noise_has_reasons(after: dict[str, object], variation: float, reason: str | None) -> None:
    later = dataclasses.replace(QUIET, seconds=110.0, own_cpu=28.0, **after)  # type: ignore[arg-type]
    found = judge(QUIET, later, {"x": variation, "y": 0.0}, 2)
    assert found.noisy == (reason is not None)
    assert len(found.reasons) == (reason is not None)
    assert reason is None or reason in found.reasons[0]
    assert found.to_dict()["noisy"] == found.noisy
