"""The developer's side: `answerable --help`. Nothing here is in the Lambda image."""

import os

# onnxruntime >= 1.29 sends telemetry unless told otherwise before it is first imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
