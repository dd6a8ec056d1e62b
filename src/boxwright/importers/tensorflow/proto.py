"""TensorFlow's messages, as far as they are read, without TensorFlow.

The descriptors are put together here from the numbers in ``graph.proto``, ``node_def.proto``,
``attr_value.proto``, ``tensor.proto``, ``tensor_shape.proto``, ``function.proto``,
``op_def.proto``, ``saver.proto``, ``meta_graph.proto``, ``saved_model.proto`` and
``tensor_bundle.proto``, in a pool of their own, so that TensorFlow may be imported beside
them. Fields that are left out are skipped. Parsing is protobuf's own, which bounds nesting.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from boxwright.errors import ImportFailedError
from boxwright.importers.tensorflow.network import refusal

if TYPE_CHECKING:
    from google.protobuf.message import Message

# DataType of types.proto in the order of its numbers, which text files write as names.
_DATA_TYPES = """
    INVALID FLOAT DOUBLE INT32 UINT8 INT16 INT8 STRING COMPLEX64 INT64 BOOL QINT8 QUINT8 QINT32
    BFLOAT16 QINT16 QUINT16 UINT16 COMPLEX128 HALF RESOURCE VARIANT UINT32 UINT64
"""
# Each message: its fields as "number name type", a type with * repeated, with {} a map from
# text to it; scalars in small letters.
_SCHEMA = {
    "Dim": "1 size int64",
    "TensorShapeProto": "2 dim Dim*; 3 unknown_rank bool",
    "TensorProto": (
        "1 dtype DataType; 2 tensor_shape TensorShapeProto; 4 tensor_content bytes; "
        "5 float_val float*; 6 double_val double*; 7 int_val int32*; 8 string_val bytes*; "
        "10 int64_val int64*; 11 bool_val bool*; 13 half_val int32*"
    ),
    "NameAttrList": "1 name string",
    "ListValue": (
        "2 s bytes*; 3 i int64*; 4 f float*; 5 b bool*; 6 type DataType*; 7 shape TensorShapeProto*"
    ),
    "AttrValue": (
        "1 list ListValue; 2 s bytes; 3 i int64; 4 f float; 5 b bool; 6 type DataType; "
        "7 shape TensorShapeProto; 8 tensor TensorProto; 10 func NameAttrList"
    ),
    "NodeDef": "1 name string; 2 op string; 3 input string*; 5 attr AttrValue{}",
    "ArgDef": "1 name string; 3 type DataType",
    "OpDef": "1 name string; 2 input_arg ArgDef*; 3 output_arg ArgDef*",
    "FunctionDef": "1 signature OpDef; 3 node_def NodeDef*; 4 ret string{}",
    "FunctionDefLibrary": "1 function FunctionDef*",
    "GraphDef": "1 node NodeDef*; 2 library FunctionDefLibrary",
    "SaverDef": (
        "1 filename_tensor_name string; 2 save_tensor_name string; 3 restore_op_name string"
    ),
    "TensorInfo": "1 name string; 2 dtype DataType; 3 tensor_shape TensorShapeProto",
    "SignatureDef": "1 inputs TensorInfo{}; 2 outputs TensorInfo{}; 3 method_name string",
    "MetaInfoDef": "4 tags string*; 5 tensorflow_version string",
    "MetaGraphDef": (
        "1 meta_info_def MetaInfoDef; 2 graph_def GraphDef; 3 saver_def SaverDef; "
        "5 signature_def SignatureDef{}"
    ),
    "SavedModel": "1 saved_model_schema_version int64; 2 meta_graphs MetaGraphDef*",
    "BundleHeaderProto": "1 num_shards int32; 2 endianness int32",
    "BundleEntryProto": (
        "1 dtype DataType; 2 shape TensorShapeProto; 3 shard_id int32; 4 offset int64; "
        "5 size int64; 6 crc32c fixed32; 7 slices NameAttrList*"
    ),
}


def message(name: str) -> Any:
    """An empty message of TensorFlow's, such as ``GraphDef``.

    Its class is made at run time, so its fields have no static types.
    """
    return _classes()[name]()


def parse(name: str, data: bytes, path: object) -> Any:
    """A message from its bytes.

    Raises:
        ImportFailedError: They are none.
    """
    from google.protobuf.message import DecodeError

    parsed = message(name)
    try:
        parsed.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError):
        raise refusal(path, f"damaged, or no {name} of TensorFlow: it cannot be parsed") from None
    return parsed


def parse_text(name: str, text: str, path: object) -> Any:
    """A message from protobuf's text format.

    Raises:
        ImportFailedError: The text is none; the message names the line.
    """
    from google.protobuf import text_format

    parsed: Message = message(name)
    try:
        text_format.Parse(text, parsed)
    except (text_format.ParseError, RecursionError, ValueError) as error:
        line = " ".join(str(error).split())[:200]
        raise ImportFailedError(f"{path}: no {name} of TensorFlow: {line}") from None
    return parsed


@cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="boxwright/tensorflow.proto", package="boxwright.tensorflow", syntax="proto3"
    )
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(_DATA_TYPES.split()):
        types.value.add(name=f"DT_{name}", number=number)
    for name, fields in _SCHEMA.items():
        record = file.message_type.add(name=name)
        for field in fields.split("; "):
            _add_field(record, *field.split())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"boxwright.tensorflow.{name}")
        )
        for name in _SCHEMA
    }


def _add_field(record: Any, number: str, name: str, kind: str) -> None:
    repeated = kind[-1] in "*}"
    field = record.field.add(name=name, number=int(number), label=3 if repeated else 1)
    if kind.endswith("{}"):
        # A map is a repeated message of key and value.
        camel = "".join(part.capitalize() for part in name.split("_"))
        entry = record.nested_type.add(name=f"{camel}Entry")
        entry.options.map_entry = True
        _add_field(entry, "1", "key", "string")
        _add_field(entry, "2", "value", kind[:-2])
        field.type = field.TYPE_MESSAGE
        field.type_name = f".boxwright.tensorflow.{record.name}.{entry.name}"
        return
    kind = kind.removesuffix("*")
    if kind in _SCHEMA:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".boxwright.tensorflow.{kind}"
    elif kind == "DataType":
        field.type = field.TYPE_ENUM
        field.type_name = ".boxwright.tensorflow.DataType"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
