"""What TensorRT says against a model, told with the node, its operator and what to do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from boxwright.backends.tensorrt.library import Library
from boxwright.backends.tensorrt.log import Journal
from boxwright.backends.tensorrt.parse import explain_refusal, has_quantisation, parse_network
from boxwright.errors import BuildError
from tests.backends.tensorrt.modules import VERSIONS, make_library
from tests.models import make_model


def refusing(*errors: tuple[int, str], accepts: bool = False) -> Library:
    """A TensorRT whose parser finds these errors: node and description."""

    class Parser:
        num_errors = len(errors)

        def __init__(self, network: Any, logger: Any) -> None: ...

        def parse(self, model: bytes) -> bool:
            return accepts

        def get_error(self, index: int) -> Any:
            node, text = errors[index]
            return SimpleNamespace(node=lambda: node, desc=lambda: text)

    library = make_library(VERSIONS[0])
    library.trt.OnnxParser = Parser
    return library


def refusal(library: Library, journal: Journal | None = None) -> str:
    with pytest.raises(BuildError) as caught:
        parse_network(library, None, None, make_model().to_bytes(), journal or Journal())
    return str(caught.value)


def test_what_the_parser_takes_is_taken() -> None:
    library = refusing(accepts=True)
    parse_network(library, None, None, make_model().to_bytes(), Journal())


def test_a_node_is_named_with_its_operator() -> None:
    model = make_model()
    index = next(i for i, n in enumerate(model.proto.graph.node) if n.op_type == "Softplus")
    name = model.proto.graph.node[index].name
    assert refusal(refusing((index, "[x.cpp::f::12] no such thing"))) == (
        f"tensorrt 8.6.1 refuses the model: node {name} (Softplus): no such thing. "
        "`boxwright inspect MODEL --for tensorrt@8.6` names the cures"
    )


def test_where_advice_is_known_it_is_given() -> None:
    model = make_model()
    model.proto.graph.node[3].op_type = "Mish"
    with pytest.raises(BuildError, match=r"\(Mish\): no - write it as x \* Tanh\(Softplus\(x\)\)"):
        parse_network(refusing((3, "no")), None, None, model.to_bytes(), Journal())
    model.proto.graph.node[3].name = ""
    with pytest.raises(BuildError, match=r"node 3 \(Mish\)"):
        parse_network(refusing((3, "no")), None, None, model.to_bytes(), Journal())


@pytest.mark.parametrize("index", [-1, 100_000])
def test_an_error_of_no_node_is_told_as_it_is(index: int) -> None:
    assert "refuses the model: bad file. `boxwright" in refusal(refusing((index, "bad file")))


def test_of_many_errors_some_are_told() -> None:
    errors = [(index, f"error {index}") for index in range(12)]
    message = refusal(refusing(*errors))
    assert "error 4" in message
    assert "error 5" not in message
    assert "(and 7 more)" in message


def test_a_parser_without_errors_leaves_the_log() -> None:
    journal = Journal()
    assert "it does not say why" in refusal(refusing(), journal)
    for number in range(9):
        journal.add("ERROR", f"logged {number}")
    message = refusal(refusing(), journal)
    assert "logged 8" in message
    assert "logged 3" not in message


def explain(*errors: str, names: dict[int, tuple[str, str]]) -> str:
    """The refusal of a graph in which nodes have these names and operators."""
    model = make_model()
    for index, (name, kind) in names.items():
        node = model.proto.graph.node[index]
        node.name, node.op_type = name, kind
    journal = Journal()
    for error in errors:
        journal.add("ERROR", error)
    return explain_refusal(make_library(VERSIONS[3]), model.to_bytes(), journal)


def test_a_layer_that_cannot_be_built_is_led_back_to_its_node() -> None:
    names = {
        0: ("nms", "NonMaxSuppression"),
        1: ("post/nms_1", "TopK"),
        2: ("post/nms", "NonMaxSuppression"),
        3: ("post", "Conv"),
        4: ("", "Conv"),
        5: ("post/nms_10", "Conv"),
    }
    # TensorRT puts numbers of its own behind a node's name.
    message = explain("post/nms_100 has no runners", names=names)
    assert "(node post/nms is a NonMaxSuppression: leave it out of the graph" in message
    for other in ("TopK", "Conv", "node nms"):
        assert other not in message
    message = explain("ITopKLayer post/nms_1: K is too large", names=names)
    assert "(node post/nms_1 is a TopK: take fewer than 3840" in message
    assert "NonMaxSuppression" not in message


def test_an_error_that_names_nothing_is_told_as_it_is() -> None:
    message = explain("out of memory", names={4: ("", "Conv")})
    assert message == (
        "tensorrt-rtx cannot build the model: out of memory. "
        "`boxwright inspect MODEL --for tensorrt-rtx@1.7` names the cures"
    )
    assert "it does not say why" in explain(names={})


def test_only_a_quantised_graph_has_quantisation() -> None:
    model = make_model()
    assert not has_quantisation(model.to_bytes())
    model.proto.graph.node[3].op_type = "QuantizeLinear"
    assert has_quantisation(model.to_bytes())
