"""The precision of each layer, from every form TensorRT describes an engine in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxwright.backends.tensorrt.layers import (
    MAX_LISTED,
    EngineLayer,
    best_described,
    describe,
    read_layers,
    summarise,
)

# The form of TensorRT 8.6's inspector, with the control characters it leaves in names.
TRT8 = """{"Layers": [{
  "Name" : "pre/cast",
  "LayerType" : "Cast",
  "Inputs" : [{ "Name": "images", "Dimensions": [1,32,64,3],
    "Format/Datatype" : "Row major linear UINT8 format" }],
  "Outputs" : [{ "Name": "x", "Format/Datatype" : "Row major linear FP32" }]
},{
  "Name" : "Reformatting CopyNode for Input Tensor 0 to conv\x1e + \x01mish",
  "LayerType" : "Reformat",
  "Inputs" : [{ "Name": "x", "Format/Datatype" : "Row major linear FP32" }],
  "Outputs" : [{ "Name": "y", "Format/Datatype" : "Channel major FP16 format where C % 8 == 0" }]
},{
  "Name" : "001/conv + PWN(mish)",
  "LayerType" : "CaskConvolution",
  "Inputs" : [{ "Name": "y", "Format/Datatype" : "Channel major FP16 format where C % 8 == 0" }],
  "Outputs" : [{ "Name": "z", "Format/Datatype" : "Channel major FP16 format where C % 8 == 0" }]
},{
  "Name" : "002/conv", "LayerType" : "CaskConvolution",
  "Inputs" : [{ "Format/Datatype" : "Thirty-two wide channel vectorized row major Int8 format" }],
  "Outputs" : [{ "Format/Datatype" : "Row major linear FP32" }]
}],
"Bindings": ["images", "boxes"]
}"""

# The form of 11's: another key, and a heading where it comes from the log.
TRT11 = "Engine Layer Information:" + json.dumps(
    {
        "Layers": [
            {
                "Name": "__myl_CorrSilu",
                "LayerType": "runtime_fusion",
                "Inputs": [{"Name": "x", "Datatype": "BF16"}],
                "Constants": [{"Datatype": "Float"}],
                "Outputs": [{"Datatype": "Float"}],
            },
            {
                "Name": "constant",
                "LayerType": "kgen",
                "Inputs": [],
                "Constants": [{"Datatype": "Half"}],
                "Outputs": [],
            },
            {"Name": "signal", "LayerType": "signal", "Inputs": [], "Outputs": []},
            {"Name": "fp8", "LayerType": "gemm", "Inputs": [{"Datatype": "FP8"}]},
            {"Name": "shape", "LayerType": "kgen", "Inputs": [{"Datatype": "Int64"}]},
        ],
        "I/O Tensors": [],
    }
)

# TensorRT-RTX 1.7's log on a machine without a GPU.
RTX = """Layers:
Name: __mye936_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: __myl_CastMulMoveTran_myl0_1, LayerType: kgen, Inputs: [ { Name: images, Dimensions: [-1,32,64,3], Datatype: UInt8, Format: (Linear) Row major linear format }], Constants: [ { Name: c, Dimensions: [1], Datatype: Float, Format: x }], Outputs: [ { Name: y, Datatype: Float, Format: (NHWC) x }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: node/cast_0]
Name: node/conv_3_myl0_2, LayerType: correlation, Inputs: [ { Name: y, Datatype: Half, Format: z }], Constants: [ { Name: d, Datatype: Float, Format: z }], Outputs: [ { Name: e, Datatype: Float, Format: z }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: node/conv_3]

I/O Tensors:
 Name: images, IOMode: Input, DataType: UInt8, Dimensions: [-1,32,64,3]
"""  # noqa: E501, W291


def kinds(text: str) -> list[tuple[str, str]]:
    return [(layer.kind, layer.precision) for layer in read_layers(text)]


def test_8_6_by_format_and_with_control_characters() -> None:
    assert kinds(TRT8) == [
        # Pixels in, floats out: it computes in floats.
        ("Cast", "float32"),
        ("Reformat", "float32"),
        ("CaskConvolution", "float16"),
        ("CaskConvolution", "int8"),
    ]
    assert read_layers(TRT8)[2].name == "001/conv + PWN(mish)"


def test_11_by_data_type() -> None:
    assert kinds(TRT11) == [
        ("runtime_fusion", "bfloat16"),
        ("kgen", "float16"),
        ("signal", "other"),
        ("gemm", "fp8"),
        ("kgen", "other"),
    ]


def test_rtx_by_its_log() -> None:
    assert read_layers(RTX) == [
        EngineLayer("__mye936_0_myl0_0", "shape_call", "other"),
        EngineLayer("__myl_CastMulMoveTran_myl0_1", "kgen", "float32"),
        EngineLayer("node/conv_3_myl0_2", "correlation", "float16"),
    ]


# The form of TensorRT 8.6's log for a free batch; its first layer is one that was seen.
TRT8_LOG = (
    "Engine Layer Information:\n"
    "Layer(Myelin): {ForeignNode[node/cast_0]}, Tactic: 0x0000000000000000, "
    "images (UInt8[-1,32,64,3]) -> cast_0 (Half[-1,32:2,64,3])\n"
    "Layer(CaskConvolution): a/conv\x1e + \nPWN(a/leaky), Tactic: 0x32f6f0cd98da6ad5, "
    "x (Half[-1,16:8,8,16]) -> y (Half[-1,16:8,8,16])\n"
    "Layer(PointWiseV2): PWN(decode/exp, decode/mul), Tactic: 0x0000000000000009, "
    "y (Float[-1,4,8]), k (Float[1,4,8]) -> boxes (Float[-1,4,8])\n"
    "Layer(Constant): c, Tactic: 0x0000000000000000,  -> c_out (Float[1])\n"
    "Layer(ShapeHostToDevice): s, Tactic: 0x0000000000000000, n (Int32[1]) -> d (Int32[1])\n"
)


def test_8_6_by_its_log() -> None:
    assert read_layers(TRT8_LOG) == [
        EngineLayer("{ForeignNode[node/cast_0]}", "Myelin", "float16"),
        EngineLayer("a/conv\x1e + \nPWN(a/leaky)", "CaskConvolution", "float16"),
        EngineLayer("PWN(decode/exp, decode/mul)", "PointWiseV2", "float32"),
        EngineLayer("c", "Constant", "float32"),
        EngineLayer("s", "ShapeHostToDevice", "other"),
    ]


def test_the_better_description_is_taken() -> None:
    unknown = TRT8.replace("FP32", "N/A due to dynamic shapes").replace("FP16", "N/A")
    assert best_described(unknown, TRT8_LOG) == read_layers(TRT8_LOG)
    assert best_described(TRT8, None) == read_layers(TRT8)
    assert best_described(None, None) == []


def test_names_only() -> None:
    """Without detailed profiling."""
    assert read_layers('{"Layers": ["a", "b"], "Bindings": []}') == [
        EngineLayer("a", "unknown", "other"),
        EngineLayer("b", "unknown", "other"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", " \n", "words", "{", "[1]", "{}", "null", '{"Layers": 3}', '{"Layers": {}}'),
        *('{"Layers": [1, null, [2]]}', "Engine Layer Information:{", "Layers:", "Layers:\nx"),
        *("{" * 100_000, '{"Layers":' + "[" * 100_000, "Name: x, LayerType: y"),
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_cannot_be_read_is_no_layer(text: str | None) -> None:
    assert read_layers(text) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["Half", "FP32"]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["Layers", "Name", "LayerType", "Inputs", "Outputs", "Constants", "Datatype"]
                ),
                inner,
            )
        ),
    )
)
def test_no_json_is_too_strange(content: Any) -> None:
    for layer in read_layers(json.dumps({"Layers": content})):
        assert isinstance(layer.name, str)
        assert isinstance(layer.kind, str)
        json.dumps(describe([layer]))


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    for form in (text, "Layers:\n" + text, "{" + text, "Name: " + text):
        json.dumps(describe(read_layers(form)))


def test_summaries_count_and_lists_end() -> None:
    layers = [EngineLayer("x" * 9999, "conv", "float16")] * (MAX_LISTED + 5)
    layers += [EngineLayer("y", "cast", "int8")]
    assert summarise(layers) == {"int8": {"cast": 1}, "float16": {"conv": MAX_LISTED + 5}}
    assert list(summarise(layers)) == ["int8", "float16"]
    found = describe(layers)
    assert len(found["layer_precisions"]) == MAX_LISTED
    assert found["layer_precisions"][0] == {
        "name": "x" * 500,
        "kind": "conv",
        "precision": "float16",
    }
