"""The session of every peer: the packed graph, as this project opens it but without its hash."""

import os

import onnxruntime as ort

options = ort.SessionOptions()
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is packed
options.intra_op_num_threads = int(os.environ["INTRA_OP_THREADS"])
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(
    os.environ["MODEL_DIR"] + "/model.onnx", options, providers=["CPUExecutionProvider"]
)
is_matrix = len(session.get_inputs()) == 1  # the graph of benchmarks.models.linear
