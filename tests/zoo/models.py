"""The zoo: all its models by name. To add one, write one function under `@zoo(…)`.

Write it in graph_models.py (onnx.helper), sklearn_models.py (converted when asked for) or
committed_models.py (files made elsewhere; see make_files.py).
"""

from tests.zoo import committed_models, encoded_models, graph_models, sklearn_models
from tests.zoo.registry import (
    PACKS,
    ZOO,
    Built,
    Paths,
    Request,
    ZooModel,
    drawn,
    feeds,
    instance_feeds,
    open_session,
    run_plain,
)

__all__ = [
    "FAST",
    "PACKS",
    "ZOO",
    "Built",
    "Paths",
    "Request",
    "ZooModel",
    "committed_models",
    "drawn",
    "encoded_models",
    "feeds",
    "graph_models",
    "instance_feeds",
    "open_session",
    "run_plain",
    "sklearn_models",
]

FAST = tuple(name for name, model in ZOO.items() if model.fast)
