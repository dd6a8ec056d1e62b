from __future__ import annotations

import random
from pathlib import Path

import pytest

from boxwright.errors import CfgError, ImportFailedError
from boxwright.importers.caffe.network import read_network
from boxwright.importers.caffe.text import MAX_BYTES, Message, parse, read_prototxt
from tests.importers.caffe.nets import one_line, prototxt


def test_the_grammar() -> None:
    root = parse(
        """# a comment
        name: "a\\n\\"b\\" \\101" 'c'  # strings beside each other are one
        layer { name: 'x' nested: < value: -1.5e-3, > ; }
        layer: { flag: true; other: f }
        dim: [1, 2 , 3]
        dim: 0x10 half: .5f kind: MAX
        """,
        "net",
    )
    assert root.text("name") == 'a\n"b" Ac'
    first, second = root.messages("layer")
    assert first.message("nested").number("value", 0) == -0.0015
    assert second.flag("flag", False)
    assert not second.flag("other", True)
    assert root.integers("dim") == [1, 2, 3, 16]
    assert root.number("half", 0) == 0.5
    assert root.choice("kind", "", {"MAX": 0}) == "MAX"
    assert parse("kind: 1", "net").choice("kind", "", {"A": 0, "B": 1}) == "B"
    assert root.message("absent").integer("n", 7) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer {\n a: 1", r"net:2: the file ends where a field name or '}'"),
        ("layer }", r"net:1: expected ':' or '{' after 'layer'"),
        ("}", r"net:1: expected a field name, got '}'"),
        ("layer { > ", r"expected a field name, got '>'"),
        ("a 1", r"expected ':' or '{' after 'a'"),
        ("\n\na: @", r"net:3: '@' is no prototxt"),
        ('a: "x', r"is no prototxt"),
        ("a:", r"the file ends where the value of a"),
        ("a: [1", r"the file ends where ',' or ']'"),
        ("a: [1 2]", r"expected ',' or '\]', got '2'"),
        ("[ext.a]: 1", r"expected a field name"),
        ("a {" * 17, r"nested more than 16 deep"),
    ],
)
def test_what_does_not_parse(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        parse(text, "net")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a: nan", "must be a finite number"),
        ("a: 1e999", "must be a finite number"),
        ("a: " + "9" * 50, "must be a finite number"),
        ("a: 1.5", "must be a whole number from 0"),
        ("a: -1", "must be a whole number from 0"),
        ("a: '1'", "must be a finite number"),
        ("a: 1 a: 2", "a is there 2 times"),
        ("a { }", "not a message in braces"),
    ],
)
def test_wrong_values_name_their_line(value: str, message: str) -> None:
    with pytest.raises(CfgError, match=f"net:2: .*{message}"):
        parse(f"\n{value}", "net").integer("a", 0)


def test_a_deep_bomb_meets_the_limit_and_not_pythons() -> None:
    with pytest.raises(CfgError, match="nested more than 16"):
        parse("a{" * 1_000_000, "net")


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    with pytest.raises(ImportFailedError, match="cannot read"):
        read_prototxt(path)
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ImportFailedError, match="is larger"):
        read_prototxt(path)
    path.write_bytes(b"a: 1\0")
    with pytest.raises(ImportFailedError, match="not text"):
        read_prototxt(path)


def network_of(text: str) -> Message:
    return parse(text, "net")


RELU = 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" %s }\n'


@pytest.mark.parametrize(
    ("rule", "runs"),
    [
        ("", True),
        ("include { phase: TEST }", True),
        ("include { phase: TRAIN }", False),
        ("include { phase: TRAIN } include { phase: TEST }", True),
        ("exclude { phase: TEST }", False),
        ("exclude { phase: TRAIN }", True),
        ("include { stage: 'deploy' }", False),
        ("include { not_stage: 'deploy' }", True),
        ("include { min_level: 1 }", False),
        ("include { max_level: 0 }", True),
    ],
)
def test_which_layers_run(rule: str, runs: bool) -> None:
    network = read_network(network_of(prototxt(RELU % "" + RELU.replace('"r"', '"s"') % rule)))
    assert ("s" in [layer.name for layer in network.layers]) == runs


def test_training_layers_are_left_out() -> None:
    loss = RELU.replace("ReLU", "SoftmaxWithLoss") % "" + RELU.replace("ReLU", "Accuracy") % ""
    network = read_network(network_of(prototxt(RELU % "" + loss)))
    assert [layer.kind for layer in network.layers] == ["ReLU"]


def test_layers_of_2013() -> None:
    text = prototxt("layers { name: 'r' type: RELU bottom: 'data' top: 'r' }")
    (layer,) = read_network(network_of(text)).layers
    assert layer.kind == "ReLU"
    with pytest.raises(CfgError, match="type must be one of"):
        read_network(network_of(text.replace("RELU", "RELUX")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RELU % "", "declares no input that a layer uses"),
        ("input: 'data' input_dim: 1 " + RELU % "", "input_dim comes four times"),
        ("input: 'data' " + RELU % "", "1 inputs and 0 shapes"),
        (prototxt(RELU % "", channels=4), "must be .N, 1 or 3, height, width."),
        (prototxt("layer { name: 'x' }"), "the layer has no type"),
        (prototxt("layers { } layer { }"), "Caffe takes one kind"),
        (
            "layer { name: 'd' type: 'Data' top: 'data' }" + RELU % "",
            "it reads training data; give the deploy prototxt",
        ),
    ],
)
def test_networks_that_are_none(text: str, message: str) -> None:
    with pytest.raises(CfgError, match=message):
        read_network(network_of(text))


def test_cut_off_anywhere_and_damaged_at_random() -> None:
    text = prototxt(RELU % "relu_param { negative_slope: 0.1 } include { phase: TEST }")
    chance = random.Random(0)
    letters = '{}<>[]:;,"\\#-0a \n'
    for number in range(3 * len(text)):
        damaged = text[: number % len(text)]
        if number >= len(text):
            at = chance.randrange(len(text))
            damaged = text[:at] + chance.choice(letters) + text[at + chance.choice((0, 1, 5)) :]
        try:
            read_network(parse(damaged, "net"))
        except ImportFailedError as error:
            one_line(error)
