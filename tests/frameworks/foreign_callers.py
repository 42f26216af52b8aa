"""Asks a gateway with clients that others wrote, and writes what they got, as JSON.

    python foreign_callers.py HTTP_ADDRESS GRPC_ADDRESS

It runs in an environment of its own, which has them; see test_foreign_callers.py.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from tritonclient.utils import InferenceServerException

AGES = np.array([40.0, 5.0], np.float32)
VISITS = np.array([1, 2], np.int16)
MEMBER = np.array([True, False])
CITY = np.array(["Zürich", "Bern"], np.object_)


def inputs(triton: Any, **how: Any) -> list[Any]:
    kinds = {"age": AGES, "visits": VISITS, "member": MEMBER, "city": CITY}
    datatypes = {"age": "FP32", "visits": "INT16", "member": "BOOL", "city": "BYTES"}
    made: list[Any] = []
    for name, values in kinds.items():
        made.append(triton.InferInput(name, [2], datatypes[name]))
        made[-1].set_data_from_numpy(values, **how)
    return made


def told(result: Any) -> dict[str, Any]:
    return {name: plain(result.as_numpy(name)) for name in ("prediction", "probability")}


def plain(values: Any) -> Any:
    if values is None:
        return None
    return [v.decode() if isinstance(v, bytes) else v for v in values.tolist()]


def over_http(address: str) -> dict[str, Any]:
    with triton_http.InferenceServerClient(address) as client:
        found: dict[str, Any] = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready("credit", "3"),
            "server": client.get_server_metadata(),
            "model": client.get_model_metadata("credit", "3"),
            "index": client.get_model_repository_index(),
        }
        for sent in (True, False):
            for asked in (True, False):
                outputs = [
                    triton_http.InferRequestedOutput(name, binary_data=asked)
                    for name in ("prediction", "probability")
                ]
                result = client.infer(
                    "credit",
                    inputs(triton_http, binary_data=sent),
                    outputs=outputs,
                    request_id="mine",
                )
                found[f"sent {sent}, asked {asked}"] = told(result)
                found["id"] = result.get_response()["id"]
        result = client.infer("credit", inputs(triton_http, binary_data=True), model_version="3")
        found["all outputs"] = told(result)
        nowhere = triton_http.InferInput("nowhere", [1], "FP32")
        nowhere.set_data_from_numpy(AGES[:1])
        try:
            client.infer("credit", [nowhere])
        except InferenceServerException as error:
            found["error"] = [error.status(), error.message()]
    return found


def over_grpc(address: str) -> dict[str, Any]:
    with triton_grpc.InferenceServerClient(address) as client:
        found: dict[str, Any] = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready("credit", "3"),
            "server": client.get_server_metadata(as_json=True),
            "model": client.get_model_metadata("credit", "3", as_json=True),
        }
        result = client.infer("credit", inputs(triton_grpc), request_id="mine")
        found["raw"] = told(result)
        found["answer"] = result.get_response(as_json=True)
        test = {"penstock-environment": "test"}
        outputs = [triton_grpc.InferRequestedOutput("probability")]
        result = client.infer("credit", inputs(triton_grpc), outputs=outputs, headers=test)
        found["only probability"] = told(result)
        found["contents"] = contents(client)
        for name in ("nobody", "credit"):
            one = triton_grpc.InferInput("nowhere", [1], "FP32")
            one.set_data_from_numpy(AGES[:1])
            try:
                client.infer(name, [one])
            except InferenceServerException as error:
                found[f"error of {name}"] = [error.status(), error.message()]
    return found


def contents(client: Any) -> dict[str, Any]:
    """Ask with typed contents, which the client itself never sends."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="doubled")
    given = request.inputs.add(name="x", datatype="FP64", shape=[3])
    given.contents.fp64_contents.extend([1.5, float("nan"), 2.0])
    answer = client._client_stub.ModelInfer(request)
    (output,) = answer.outputs
    return {"values": list(output.contents.fp64_contents), "raw": len(answer.raw_output_contents)}


def over_mlflow(address: str) -> dict[str, Any]:
    import pandas as pd

    host, port = address.split(":")
    frame = pd.DataFrame({"age": AGES, "visits": VISITS, "member": MEMBER, "city": CITY})
    client = ScoringServerClient(host, f"{port}/models/credit")
    client.ping()
    answer = client.invoke(frame, params={"read": "over"})
    found: dict[str, Any] = {
        "version": client.get_version(),
        "predictions": plain(answer.get_predictions()[0].to_numpy()),
    }
    for media, body in (
        ("text/csv", frame.to_csv(index=False).encode()),
        ("application/vnd.apache.parquet", frame.to_parquet(index=False)),
    ):
        url = f"http://{address}/models/credit/invocations"
        answered = requests.post(url, body, headers={"Content-Type": media}, timeout=20)
        found[media] = answered.json()
    return found


def over_mlserver(address: str) -> dict[str, Any]:
    """Ask with MLServer's own types. Its package starts a server's worth of imports: only the
    module that has them is loaded."""
    types_of = importlib.util.find_spec("mlserver")
    assert types_of is not None
    assert types_of.origin is not None
    package = types.ModuleType("mlserver")
    package.__path__ = [str(Path(types_of.origin).parent)]
    sys.modules["mlserver"] = package
    from mlserver import types as v2

    columns = {"age": AGES, "visits": VISITS, "member": MEMBER, "city": CITY}
    datatypes = {"age": "FP32", "visits": "INT16", "member": "BOOL", "city": "BYTES"}
    request = v2.InferenceRequest(
        id="mine",
        inputs=[
            v2.RequestInput(name=name, shape=[2], datatype=datatypes[name], data=values.tolist())
            for name, values in columns.items()
        ],
        outputs=[v2.RequestOutput(name="probability")],
    )
    base = f"http://{address}/v2"
    body = request.model_dump_json(exclude_none=True)
    head = {"Content-Type": "application/json"}
    answer = requests.post(f"{base}/models/credit/infer", body, headers=head, timeout=20)
    response = v2.InferenceResponse.model_validate_json(answer.text)
    server = v2.MetadataServerResponse.model_validate_json(requests.get(base, timeout=20).text)
    model = requests.get(f"{base}/models/credit", timeout=20).text
    index = requests.post(f"{base}/repository/index", json={"ready": True}, timeout=20).text
    refused = requests.get(f"{base}/models/nobody", timeout=20).text
    return {
        "server": server.name,
        "inputs": [i.name for i in v2.MetadataModelResponse.model_validate_json(model).inputs],
        "index": [
            str(getattr(e.state, "value", e.state))
            for e in v2.RepositoryIndexResponse.model_validate_json(index).root
        ],
        "outputs": [output.name for output in response.outputs],
        "id": response.id,
        "error": v2.InferenceErrorResponse.model_validate_json(refused).error,
    }


if __name__ == "__main__":
    http, grpc = sys.argv[1:]
    found = {"http": over_http(http), "grpc": over_grpc(grpc), "mlflow": over_mlflow(http)}
    found["mlserver"] = over_mlserver(http)
    sys.stdout.write(json.dumps(found))
