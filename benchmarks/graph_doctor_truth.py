"""Ask an installed TensorRT what it makes of the zoo, and compare it with the graph doctor.

    python benchmarks/graph_doctor_truth.py                       parse only; under a minute
    python benchmarks/graph_doctor_truth.py --build               build engines too
    python benchmarks/graph_doctor_truth.py --module tensorrt_rtx

Every graph is asked as it is, and again after the cures for that TensorRT, so that what the
doctor says of its own cures is put to the test, too. Needs numpy, onnx and the TensorRT
module, and nothing else; it is run from a clone. The report goes to stdout as Markdown. A
graph that ends the process is recorded as a crash, and the rest are asked in a new one.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "src")]

from tests.graph import zoo  # noqa: E402

from boxwright.environment import describe_environment  # noqa: E402
from boxwright.errors import InputError  # noqa: E402
from boxwright.graph.diagnose import Finding, diagnose  # noqa: E402
from boxwright.graph.legalise import legalise  # noqa: E402
from boxwright.graph.targets import Target, find_target  # noqa: E402

_ACCEPTED = "accepted"
_CRASHED = "crashed"

# For how long a process may be at it, and what a build adds for each graph; what hangs
# longer counts as a crash.
_SECONDS = 45
_SECONDS_TO_BUILD = 10


@dataclass(frozen=True)
class _Graph:
    """A graph to ask about: one of the zoo, or what the cures make of it."""

    name: str
    kind: str  # "", "cured" or "cured, tidied"
    data: bytes
    findings: tuple[Finding, ...]

    @property
    def label(self) -> str:
        return f"{self.name} ({self.kind})" if self.kind else self.name

    def expected(self, build: bool) -> str:
        """What the doctor says the runtime will do."""
        stages = {item.stage for item in self.findings if item.severity == "error"}
        if "crash" in stages:
            return _CRASHED
        if "parse" in stages:
            return "refused while parsing"
        return "refused while building" if "build" in stages and build else _ACCEPTED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default="tensorrt", help="tensorrt or tensorrt_rtx")
    parser.add_argument("--target", help="judge for this one; else the installed version")
    parser.add_argument("--build", action="store_true", help="build engines too (slow)")
    parser.add_argument("--processes", type=int, default=4, help="how many ask at a time (4)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        _work(arguments.module, json.load(sys.stdin), arguments.build)
        return 0
    started = time.perf_counter()
    version = str(importlib.import_module(arguments.module).__version__)
    family = "tensorrt-rtx" if arguments.module.endswith("rtx") else "tensorrt"
    target = find_target(arguments.target or f"{family}@{'.'.join(version.split('.')[:2])}")
    graphs = graphs_for(target)
    answers, knows = _ask_all(graphs, arguments.build, max(arguments.processes, 1))
    _heading(arguments.module, version, target, arguments.build, time.perf_counter() - started)
    _report(graphs, answers, arguments.build)
    _report_operators(target, knows, graphs, answers)
    return 0


def graphs_for(target: Target) -> list[_Graph]:
    """Every graph of the zoo, and what the cures make of it where they change something."""
    found = []
    for case in zoo.cases():
        proto = case.make()
        made = [("", proto)]
        for kind, tidy in (("cured", False), ("cured, tidied", True)):
            try:
                cured, reports = legalise(proto, target, tidy=tidy)
            except InputError:
                continue
            if reports and all(cured != other for _, other in made):
                made.append((kind, cured))
        found += [
            _Graph(case.name, kind, model.SerializeToString(), tuple(diagnose(model, target)))
            for kind, model in made
        ]
    return found


def _ask_all(
    graphs: list[_Graph], build: bool, processes: int
) -> tuple[dict[str, str], frozenset[str]]:
    """What the runtime says of each graph, and which operators it says it knows."""
    # Those that are thought to crash come last, so that few processes are lost to them.
    ordered = sorted(graphs, key=lambda graph: graph.expected(build) == _CRASHED)
    parts = [part for at in range(processes) if (part := ordered[at::processes])]
    answers: dict[str, str] = {}
    knows: set[str] = set()
    with ThreadPoolExecutor(len(parts)) as pool:
        for said, known in pool.map(_ask, parts):
            answers |= said
            knows |= known
    return answers, frozenset(knows)


def _ask(graphs: list[_Graph]) -> tuple[dict[str, str], set[str]]:
    """Ask one process after another, each for what those before did not live to answer."""
    answers: dict[str, str] = {}
    knows: set[str] = set()
    while left := [graph for graph in graphs if graph.label not in answers]:
        ended, said, complaint = _run_worker(left)
        for line in said.splitlines():
            if line.startswith("{"):
                answer = json.loads(line)
                knows.update(answer.pop("knows", ()))
                answers.update(answer)
        missing = [graph for graph in left if graph.label not in answers]
        if not missing:
            break
        if ended == "ended with 0" or "knows" not in said:
            sys.exit(f"the worker {ended}:\n{complaint[-3000:]}")
        last = complaint.strip().splitlines()[-1:] or ["nothing"]
        answers[missing[0].label] = f"CRASH the process {ended}, and said: {last[0]}"
    return answers, knows


def _run_worker(graphs: list[_Graph]) -> tuple[str, str, str]:
    command = [sys.executable, __file__, *sys.argv[1:], "--worker"]
    pipe = subprocess.PIPE
    limit = _SECONDS + (_SECONDS_TO_BUILD * len(graphs) if "--build" in sys.argv else 0)
    asked = json.dumps([[graph.label, graph.data.hex()] for graph in graphs])
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            said, complaint = process.communicate(asked, limit)
        except subprocess.TimeoutExpired:
            process.kill()
            said, complaint = process.communicate()
            return "hung", said, complaint
    code = process.returncode
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return ended, said, complaint


def _work(module: str, graphs: list[tuple[str, str]], builds: bool) -> None:
    trt = importlib.import_module(module)

    class Log(trt.ILogger):  # type: ignore[misc, name-defined]  # the module is found at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            # Not every version's enumeration can be compared.
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.lines.append(message)

    log = Log()
    # As Boxwright does before it parses: RoiAlign and others are plugins.
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(log, "")
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    asks = hasattr(parser, "supports_operator")
    known = [name for name in _operators() if parser.supports_operator(name)] if asks else []
    print(json.dumps({"knows": known}), flush=True)
    del parser, network  # in this order: a parser writes into its network
    for label, data in graphs:
        log.lines.clear()
        try:
            answer = _answer(trt, builder, log, bytes.fromhex(data), builds)
        except Exception as error:  # what the bindings make of C++ exceptions is not said
            answer = f"PARSE raised {type(error).__name__}: {error}"
        print(json.dumps({label: " ".join(answer.split())}), flush=True)


def _answer(trt: Any, builder: Any, log: Any, data: bytes, builds: bool) -> str:
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(data):
        texts = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        answer = "PARSE " + "; ".join(texts)
    else:
        answer = build(trt, builder, network, log) if builds else "ok"
    del parser, network
    return answer


def _flags(trt: Any) -> int:
    """Before 11 the batch had to be said to be explicit; then the flag went away."""
    explicit = trt.NetworkDefinitionCreationFlag.__members__.get("EXPLICIT_BATCH")
    return 0 if explicit is None else 1 << int(explicit)


def build(trt: Any, builder: Any, network: Any, log: Any) -> str:
    config = builder.create_builder_config()
    if hasattr(config, "builder_optimization_level"):
        config.builder_optimization_level = 0
    if hasattr(trt, "ComputeCapability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    profile, used = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            values = [1] * max(1, tensor.shape[0] if len(tensor.shape) else 1)
            profile.set_shape_input(tensor.name, values, values, values)
            used = True
        elif any(extent < 0 for extent in tensor.shape):
            shape = [extent if extent > 0 else 8 for extent in tensor.shape]
            profile.set_shape(tensor.name, shape, shape, shape)
            used = True
    if used:
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return "ok" if plan else "BUILD " + "; ".join(log.lines)


def _operators() -> list[str]:
    import onnx

    schemas = onnx.defs.get_all_schemas()
    return sorted({schema.name for schema in schemas if not schema.domain})


def _seen(answer: str) -> str:
    words = {"PARSE": "refused while parsing", "BUILD": "refused while building", "ok": _ACCEPTED}
    return words.get(answer.split(" ", 1)[0], _CRASHED)


def _heading(module: str, version: str, target: Target, build: bool, seconds: float) -> None:
    environment = describe_environment()
    cards = environment.get("gpus") or environment.get("gpu") or "no GPU"
    versions = ", ".join(
        f"{name} {importlib.import_module(name).__version__}" for name in ("onnx", "numpy")
    )
    print(f"# The graph doctor against {target.family} {version}\n")
    print("What the runtime itself made of the graphs of `tests/graph/zoo.py`, as they are and")
    print(f"after the cures, written by `benchmarks/graph_doctor_truth.py --module {module}`.\n")
    print("| | |\n|---|---|")
    print(f"| date | {datetime.datetime.now(datetime.UTC).date().isoformat()} |")
    print(f"| runtime | {module} {version}, judged as {target.name} |")
    print(f"| asked | {'parsed and built' if build else 'parsed only'}, in {seconds:.0f} s |")
    print(f"| GPU | {_cell(cards)} |")
    print(f"| software | Python {platform.python_version()}, {versions} |")
    print(f"| system | {platform.platform()} |\n")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items() if item)
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_cell, value))
    return " ".join(str(value).split()).replace("|", "/")


def _report(graphs: list[_Graph], answers: dict[str, str], build: bool) -> None:
    rows = [(graph, graph.expected(build), _seen(answers[graph.label])) for graph in graphs]
    plain = [row for row in rows if not row[0].kind]
    cured = [row for row in rows if row[0].kind]
    for what, some in (("graphs as they are", plain), ("cured graphs", cured)):
        agreed = sum(expected == seen for _, expected, seen in some)
        print(f"- The verdict is the runtime's on {agreed} of {len(some)} {what}.")
    refused = {graph.name for graph, _, seen in plain if seen != _ACCEPTED}
    now = {graph.name for graph, _, seen in cured if seen == _ACCEPTED}
    worse = {graph.name for graph, _, seen in cured if seen != _ACCEPTED} - refused
    print(f"- Of {len(refused)} graphs that it does not take, it takes {len(refused & now)} once "
          "they are cured.")  # fmt: skip
    print(f"- Taken before a cure and not after: {', '.join(sorted(worse)) or 'none'}.")
    for title, some in (("As they are", plain), ("After the cures", cured)):
        print(f"\n## {title}\n")
        print("| | graph | the doctor | the runtime | findings | what the runtime said |")
        print("|---|---|---|---|---|---|")
        for graph, expected, seen in sorted(some, key=lambda row: row[1] == row[2]):
            codes = dict.fromkeys(f"{item.code} ({item.severity})" for item in graph.findings
                                  if item.severity != "note")  # fmt: skip
            said = _cell(answers[graph.label].partition(" ")[2])[:200]
            differs = "" if expected == seen else "**differs**"
            print(f"| {differs} | {graph.label} | {expected} | {seen} | {', '.join(codes)} | "
                  f"{said} |")  # fmt: skip


def _report_operators(
    target: Target, knows: frozenset[str], graphs: list[_Graph], answers: dict[str, str]
) -> None:
    if not knows:
        return
    ours = target.known_operators or frozenset()
    asked = set(_operators())
    denied = sorted((ours & asked) - knows)
    names = {name.replace(" ", ""): name for name in (g.name for g in graphs if not g.kind)}
    print("\n## Operators\n")
    print(f"`OnnxParser.supports_operator` knows {len(knows)} of {len(asked)} standard operators.")
    print(f"- It knows, the table does not: {', '.join(sorted(knows - ours)) or 'none'}.")
    print(f"- The table has, it does not: {', '.join(denied) or 'none'}.")
    for operator in denied:
        if (name := names.get(operator.lower())) is not None:
            print(f"  - {operator}: the graph {name!r} was {_seen(answers[name])}.")


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.exit(main())
