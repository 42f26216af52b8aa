"""The messages of the Open Inference Protocol over gRPC, made from a table.

The wire knows numbers and types of fields, not files: a table of them is enough, and nothing has
to be generated. They live in a pool of their own, beside whatever else this process loads.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

SERVICE = "inference.GRPCInferenceService"

METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
)

_TENSOR = "string name=1; string datatype=2; repeated int64 shape=3"
_PARAMETERS = "repeated InferParameterEntry parameters"
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live=1",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready=1",
    "ModelReadyRequest": "string name=1; string version=2",
    "ModelReadyResponse": "bool ready=1",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name=1; string version=2; repeated string extensions=3",
    "ModelMetadataRequest": "string name=1; string version=2",
    "ModelMetadataResponse": "string name=1; repeated string versions=2; string platform=3;"
    "repeated TensorMetadata inputs=4; repeated TensorMetadata outputs=5",
    "TensorMetadata": _TENSOR,
    "ModelInferRequest": "string model_name=1; string model_version=2; string id=3;"
    f"{_PARAMETERS}=4; repeated InputTensor inputs=5; repeated RequestedOutput outputs=6;"
    "repeated bytes raw_input_contents=7",
    "InputTensor": f"{_TENSOR}; {_PARAMETERS}=4; InferTensorContents contents=5",
    "RequestedOutput": f"string name=1; {_PARAMETERS}=2",
    "ModelInferResponse": f"string model_name=1; string model_version=2; string id=3;"
    f"{_PARAMETERS}=4; repeated OutputTensor outputs=5; repeated bytes raw_output_contents=6",
    "OutputTensor": f"{_TENSOR}; {_PARAMETERS}=4; InferTensorContents contents=5",
    "InferParameterEntry": "string key=1; InferParameter value=2",
    "InferParameter": "bool bool_param=1; int64 int64_param=2; string string_param=3;"
    "double double_param=4; uint64 uint64_param=5",
    "InferTensorContents": "repeated bool bool_contents=1; repeated int32 int_contents=2;"
    "repeated int64 int64_contents=3; repeated uint32 uint_contents=4;"
    "repeated uint64 uint64_contents=5; repeated float fp32_contents=6;"
    "repeated double fp64_contents=7; repeated bytes bytes_contents=8",
}
_CONTENTS = {
    "bool_contents": ("BOOL",),
    "int_contents": ("INT8", "INT16", "INT32"),
    "int64_contents": ("INT64",),
    "uint_contents": ("UINT8", "UINT16", "UINT32"),
    "uint64_contents": ("UINT64",),
    "fp32_contents": ("FP32",),
    "fp64_contents": ("FP64",),
    "bytes_contents": ("BYTES",),
}
CONTENTS = {datatype: field for field, datatypes in _CONTENTS.items() for datatype in datatypes}
"""The field of InferTensorContents that holds the values of a datatype."""
_FIELD = re.compile(r"(repeated )?(\w+) (\w+)=(\d+)")


def messages() -> dict[str, Any]:
    """Return each message's class by name; ImportError where protobuf is missing."""
    descriptors: Any = importlib.import_module("google.protobuf.descriptor_pb2")
    pools: Any = importlib.import_module("google.protobuf.descriptor_pool")
    factory: Any = importlib.import_module("google.protobuf.message_factory")
    file = descriptors.FileDescriptorProto(
        name="penstock/open_inference.proto", package="inference", syntax="proto3"
    )
    field_type = descriptors.FieldDescriptorProto
    for name, told in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for repeated, kind, field, number in _FIELD.findall(told):
            made = message.field.add(name=field, number=int(number))
            made.label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            if kind in _MESSAGES:
                made.type, made.type_name = field_type.TYPE_MESSAGE, f".inference.{kind}"
            else:
                made.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = pools.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}"))
        for name in _MESSAGES
    }
