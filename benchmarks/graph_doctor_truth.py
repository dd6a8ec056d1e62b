"""Ask an installed TensorRT what it makes of the zoo, and compare it with the graph doctor.

    python benchmarks/graph_doctor_truth.py                       parse only; under a minute
    python benchmarks/graph_doctor_truth.py --build               build engines too
    python benchmarks/graph_doctor_truth.py --module tensorrt_rtx

Needs numpy, onnx and the TensorRT module, and nothing else; it is run from a clone. The
table goes to stdout as Markdown. A graph that ends the process is recorded as a crash, and
the rest are asked in a new one.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_ROOT), str(_ROOT / "src")]

from tests.graph import zoo  # noqa: E402

from boxwright.errors import InputError  # noqa: E402
from boxwright.graph.diagnose import Finding, diagnose  # noqa: E402
from boxwright.graph.targets import Target, find_target  # noqa: E402

_CURED = " (cured)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", default="tensorrt", help="tensorrt or tensorrt_rtx")
    parser.add_argument("--target", help="judge for this one; else the installed version")
    parser.add_argument("--build", action="store_true", help="build engines too (slow)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    version = str(importlib.import_module(arguments.module).__version__)
    family = "tensorrt-rtx" if arguments.module.endswith("rtx") else "tensorrt"
    target = find_target(arguments.target or f"{family}@{'.'.join(version.split('.')[:2])}")
    graphs = _graphs(target)
    if arguments.worker is not None:
        _work(arguments.module, graphs[arguments.worker :], arguments.build)
        return 0
    started = time.perf_counter()
    answers, knows = _ask(graphs)
    _report(target, version, graphs, answers, time.perf_counter() - started)
    _report_operators(target, knows)
    return 0


def _graphs(target: Target) -> list[tuple[str, bytes, list[Finding]]]:
    """Name, file content and our findings of every graph, and of those that were cured."""
    found = []
    for case in zoo.cases():
        proto = case.make()
        found.append((case.name, proto.SerializeToString(), diagnose(proto, target)))
        cured = _cured(proto, target)
        if cured is not None:
            name = case.name + _CURED
            found.append((name, cured.SerializeToString(), diagnose(cured, target)))
    return found


def _cured(proto: Any, target: Target) -> Any:
    try:
        from boxwright.graph.legalise import legalise

        cured, reports = legalise(proto, target)
    except (ImportError, InputError):
        return None
    return cured if reports else None


def _ask(graphs: list[tuple[str, bytes, list[Finding]]]) -> tuple[dict[str, str], list[str]]:
    """What the runtime says of each graph, and which operators it says it knows."""
    answers: dict[str, str] = {}
    knows: list[str] = []
    at = 0
    while at < len(graphs):
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                answer = json.loads(line)
                knows = answer.pop("knows", knows)
                answers.update(answer)
        missing = [index for index, graph in enumerate(graphs) if graph[0] not in answers]
        if not missing:
            break
        if done.returncode == 0 or not answers:
            sys.exit(f"the worker failed:\n{done.stderr[-3000:]}")
        at = missing[0] + 1
        answers[graphs[missing[0]][0]] = f"CRASH {done.returncode}"
    return answers, knows


def _work(module: str, graphs: list[tuple[str, bytes, list[Finding]]], builds: bool) -> None:
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
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)
    if hasattr(parser, "supports_operator"):
        print(json.dumps({"knows": [n for n in _operators() if parser.supports_operator(n)]}))
    for name, data, _ in graphs:
        log.lines.clear()
        network = builder.create_network(_flags(trt))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(data):
            texts = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            answer = "PARSE " + "; ".join(texts)
        elif builds:
            answer = build(trt, builder, network, log)
        else:
            answer = "ok"
        print(json.dumps({name: " ".join(answer.split())}), flush=True)
        del parser, network  # in this order: a parser writes into its network


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


def _expected(findings: list[Finding], build: bool) -> str:
    stages = {finding.stage for finding in findings if finding.severity == "error"}
    if "parse" in stages:
        return "refused while parsing"
    if "build" in stages and build:
        return "refused while building"
    return "accepted"


def _seen(answer: str) -> str:
    words = {"PARSE": "refused while parsing", "BUILD": "refused while building", "ok": "accepted"}
    return words.get(answer.split(" ", 1)[0], "crashed")


def _report(
    target: Target,
    version: str,
    graphs: list[tuple[str, bytes, list[Finding]]],
    answers: dict[str, str],
    seconds: float,
) -> None:
    build = "--build" in sys.argv
    rows = []
    for name, _, findings in graphs:
        answer = answers[name]
        codes = ", ".join(dict.fromkeys(f"{f.code} ({f.severity})" for f in findings
                                        if f.severity != "note"))  # fmt: skip
        agree = _expected(findings, build) == _seen(answer)
        said = answer.split(" ", 1)[1] if " " in answer else ""
        rows.append((agree, name, _expected(findings, build), _seen(answer), codes, said))
    agreed = sum(row[0] for row in rows)
    print(f"# The graph doctor against {target.family} {version}\n")
    print(f"{platform.platform()}, Python {platform.python_version()}, "
          f"{'parsed and built' if build else 'parsed only'} in {seconds:.0f} s.")  # fmt: skip
    print(f"Judged as {target.name}. Agreed on {agreed} of {len(rows)} graphs.\n")
    print("| | graph | the doctor | the runtime | findings | what the runtime said |")
    print("|---|---|---|---|---|---|")
    for agree, *cells in sorted(rows, key=lambda row: row[0]):
        shown = [cell.replace("|", "/")[:200] for cell in cells]
        print(f"| {'' if agree else '**differs**'} | " + " | ".join(shown) + " |")


def _report_operators(target: Target, knows: list[str]) -> None:
    if not knows:
        return
    ours = target.known_operators or frozenset()
    asked = set(_operators())
    print("\n## Operators\n")
    print(f"It says it knows {len(knows)} of {len(asked)} standard operators.")
    print(f"- It knows, the table does not: {', '.join(sorted(set(knows) - ours)) or 'none'}")
    print(
        f"- The table has, it does not: {', '.join(sorted((ours & asked) - set(knows))) or 'none'}"
    )


if __name__ == "__main__":
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")
    sys.exit(main())
