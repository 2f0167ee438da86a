"""A hand-written handler: json, numpy, onnxruntime. It validates nothing and records nothing."""

import json
from typing import Any

import numpy as np

from benchmarks.peers.session import is_matrix, session

DTYPES = {node.name: object if "string" in node.type else "f4" for node in session.get_inputs()}


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    rows = json.loads(event["body"])["instances"]
    if is_matrix:
        feeds = {"X": np.array([[row[f"x{i}"] for i in range(30)] for row in rows], "f4")}
    else:
        feeds = {n: np.array([row[n] for row in rows], t)[:, None] for n, t in DTYPES.items()}
    (values,) = session.run(None, feeds)
    answer = {"predictions": [{"progression": value} for value in values[:, 0].tolist()]}
    return {
        "statusCode": 200,
        "headers": {"content-type": "application/json"},
        "body": json.dumps(answer),
        "isBase64Encoded": False,
    }
