"""Options from a file: who wins, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest

from boxwright.cli import group as group_module
from boxwright.cli.common import (
    BatchRange,
    CommaList,
    NameValue,
    Settings,
    Size,
    Verb,
    print_json,
)
from tests.cli.conftest import Run

Kind = Size | BatchRange | CommaList | NameValue


@pytest.fixture(autouse=True)
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two verbs with options of each kind."""

    @click.command("probe", cls=Verb, examples="boxwright probe")
    @click.option("--score-threshold", type=float, default=0.25)
    @click.option("--size", type=Size())
    @click.option("--save", type=CommaList(("drawn", "jsonl")), default="drawn")
    @click.option("--class", "classes", multiple=True)
    @click.option("--resume/--no-resume", default=True)
    @click.option("--limit", type=click.IntRange(1), hidden=True, expose_value=False)
    @click.option("--output", type=click.Path(), hidden=True, expose_value=False)
    @click.pass_obj
    def command(settings: Settings, /, **options: object) -> None:
        """Probe."""
        print_json({**options, "device": settings.device, "verbosity": settings.verbosity})

    @click.command("other", cls=Verb, examples="boxwright other")
    @click.option("--cfg")
    def other(cfg: str | None) -> None:
        """Another verb."""

    verbs: dict[str, click.Command] = {"probe": command, "other": other}
    monkeypatch.setattr(group_module.LazyGroup, "get_command", lambda self, ctx, n: verbs.get(n))
    monkeypatch.setattr(group_module, "VERBS", dict.fromkeys(verbs, ("", "")))


def _write(name: str, text: str) -> Path:
    Path(name).write_text(text, encoding="utf-8")
    return Path(name)


def test_the_command_line_wins_over_the_table_over_the_top_over_the_default(run: Run) -> None:
    file = _write(
        "c.toml",
        """
        device = "cuda:0"
        score-threshold = 0.1
        verbose = 1
        [probe]
        score_threshold = 0.5
        save = ["drawn", "jsonl"]
        class = ["dog", "cat"]
        size = 416
        resume = false
        """,
    )
    assert json.loads(run("probe").stdout) == {
        "score_threshold": 0.25,
        "size": None,
        "save": ["drawn"],
        "classes": [],
        "resume": True,
        "device": "auto",
        "verbosity": 0,
    }
    from_file = {
        "score_threshold": 0.5,
        "size": [416, 416],
        "save": ["drawn", "jsonl"],
        "classes": ["dog", "cat"],
        "resume": False,
        "device": "cuda:0",
        "verbosity": 1,
    }
    assert json.loads(run("probe", "--config", file).stdout) == from_file
    # The order on the command line makes no difference.
    done = run("probe", "--score-threshold", "0.9", "--size", "320x416", "--config", file)
    assert json.loads(done.stdout) == {**from_file, "score_threshold": 0.9, "size": [320, 416]}


def test_yaml_is_read_too(run: Run) -> None:
    file = _write("c.yaml", "probe:\n  score-threshold: 0.5\n")
    assert json.loads(run("probe", "--config", file).stdout)["score_threshold"] == 0.5


def test_yaml_without_its_package_names_the_pip_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    done = run("probe", "--config", _write("c.yml", "a: 1"))
    assert done.exit_code == 1
    assert "pip install 'boxwright[yaml]'" in done.stderr


def test_one_file_serves_several_verbs(run: Run) -> None:
    file = _write("c.toml", 'cfg = "a.cfg"\n[other]\ncfg = "b.cfg"\n[probe]\nresume = false\n')
    assert json.loads(run("probe", "--config", file).stdout)["resume"] is False
    assert run("other", "--config", file).exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        # A slip in a table, with the nearest name.
        (
            "c.toml",
            "[probe]\nscore_treshold = 1",
            "no option of 'probe' is named 'score_treshold'; did you mean 'score-threshold'?",
        ),
        # A slip at the top.
        ("c.toml", "devise = 'cpu'", "no option is named 'devise'; did you mean 'device'?"),
        # A slip in the name of a verb.
        ("c.toml", "[prob]\nsize = 1", "no option is named 'prob'; did you mean 'probe'?"),
        # A slip in the table of a verb that is not called now.
        ("c.toml", "[other]\ncgf = 1", "no option of 'other' is named 'cgf'; did you mean 'cfg'?"),
        # An option of another verb, in this verb's table.
        ("c.toml", "[probe]\ncfg = 'a'", "no option of 'probe' is named 'cfg'"),
        # A file cannot name another file.
        ("c.toml", "config = 'd.toml'", "no option is named 'config'"),
        ("c.toml", "probe = 1", "'probe' must be a table of options"),
        ("c.toml", "a = ", "is not valid TOML"),
        ("c.yaml", "a: [", "is not valid YAML"),
        ("c.yaml", "- a", "expected a table of options"),
        ("c.txt", "", "ends in .toml, .yaml or .yml"),
    ],
)
def test_what_is_refused(run: Run, name: str, text: str, message: str) -> None:
    done = run("probe", "--config", _write(name, text))
    assert (done.exit_code, done.stdout) == (1, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_file_is_refused(run: Run) -> None:
    done = run("probe", "--config", "nowhere.toml")
    assert done.exit_code == 1
    assert "cannot read nowhere.toml" in done.stderr


def test_a_value_of_the_wrong_kind_is_wrong_usage(run: Run) -> None:
    done = run("probe", "--config", _write("c.toml", "[probe]\nscore-threshold = 'high'"))
    assert done.exit_code == 2
    assert "--score-threshold" in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("score-threshold = [1]", "a finite number, got [1]"),
        ("score-threshold = nan", "a finite number, got nan"),
        ("score-threshold = true", "a finite number, got True"),
        ("json = 3", "true or false, got 3"),
        ("no-resume = 'yes'", "true or false, got 'yes'"),
        ("output = 5", "text in quotes, got 5"),
        ("class = [1]", "text in quotes, got 1"),
        ("limit = [[1]]", "a whole number, got [[1]]"),
        ("limit = 1.5", "a whole number, got 1.5"),
        ("limit = true", "a whole number, got True"),
        ("verbose = true", "a whole number, got True"),
        ("size = [[1]]", "text or a whole number, got [1]"),
        ("size = 1.5", "text or a whole number, got 1.5"),
        ("device = 1979-05-27", "text in quotes, got datetime.date(1979, 5, 27)"),
        ("output = {a = 1}", "text in quotes, got {'a': 1}"),
    ],
)
def test_a_value_of_the_wrong_toml_type_is_one_line(run: Run, line: str, expected: str) -> None:
    done = run("probe", "--config", _write("c.toml", f"[probe]\n{line}"))
    key = line.partition(" ")[0]
    assert (done.exit_code, done.stderr) == (2, f"error: c.toml: {key!r} must be {expected}\n")


@pytest.mark.parametrize("digits", ["0x" + "f" * 9000, "9" * 9000])
def test_a_number_without_end_is_one_line(run: Run, digits: str) -> None:
    done = run("probe", "--config", _write("c.toml", f"limit = {digits}"))
    assert done.exit_code in (1, 2)
    assert "bug" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_one_value_will_do_for_an_option_that_is_repeatable(run: Run) -> None:
    file = _write("c.toml", "class = 'dog'\nno-resume = true")
    content = json.loads(run("probe", "--config", file).stdout)
    assert (content["classes"], content["resume"]) == (["dog"], False)
    file = _write("c.toml", "no-resume = true\nresume = true")
    assert "given twice" in run("probe", "--config", file).stderr


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Size(), "416", (416, 416)),
        (Size(), "320x416", (320, 416)),
        (Size(), "320X416", (320, 416)),
        (Size(), [320, 416], (320, 416)),
        (NameValue(), "threads=2", ("threads", 2)),
        (NameValue(), " threads = -2 ", ("threads", -2)),
        (NameValue(), "ratio=0.5", ("ratio", 0.5)),
        (NameValue(), "ratio=1e-3", ("ratio", 0.001)),
        (NameValue(), "pin=True", ("pin", True)),
        (NameValue(), "hint=latency", ("hint", "latency")),
        (NameValue(), "path=a=b", ("path", "a=b")),
        # No number that JSON knows, so text.
        (NameValue(), "x=nan", ("x", "nan")),
        (NameValue(), "x=1e999", ("x", "1e999")),
        (NameValue(), "x=1_000", ("x", "1_000")),
        (BatchRange(), "8", (8, 8, 8)),
        (BatchRange(), "1:16", (1, 16, 16)),
        (BatchRange(), "1:8:16", (1, 8, 16)),
        (CommaList(("a", "b")), "b, a,a", ("a", "b")),
    ],
)
def test_small_types_read(kind: Kind, text: object, value: object) -> None:
    assert kind.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Size(), "0"),
        (Size(), "416x"),
        (Size(), "416x0"),
        (Size(), "416x416x3"),
        (Size(), "-1"),
        (Size(), ""),
        (NameValue(), "threads"),
        (NameValue(), "threads="),
        (NameValue(), "=2"),
        (NameValue(), "2x=2"),
        (BatchRange(), "0"),
        (BatchRange(), "4:2"),
        (BatchRange(), "1:2:3:4"),
        (BatchRange(), "1:x"),
        (CommaList(("a", "b")), "c"),
    ],
)
def test_small_types_refuse(kind: Kind, text: str) -> None:
    with pytest.raises(click.BadParameter):
        kind.convert(text, None, None)
