"""The Python API beside `pack`: load a packed model, and compare two versions."""

from pathlib import Path
from typing import Any

import orjson

from handler import scoring
from handler.manifest import Manifest
from infra.project import find_model


class Model:
    """A packed model in this process, behind its contract."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._scorer = scoring.load(directory)

    @property
    def manifest(self) -> Manifest:
        """Return the manifest."""
        return self._scorer.manifest

    def predict(self, rows: Any) -> list[dict[str, Any]]:
        """Return one prediction per row.

        `rows`: dicts of features (or of tensors), or a DataFrame, whose NaN is a missing value.
        Raise ApiError, with `violations`, for what the contract refuses. `POST /predict` answers
        the same.
        """
        if hasattr(rows, "to_dict"):  # pandas
            rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
        body = orjson.dumps({"instances": list(rows)}, option=orjson.OPT_SERIALIZE_NUMPY)
        return [orjson.loads(text) for text in self._scorer.predict(body)]


def load(name: str = "") -> Model:
    """Return the model `name` of the current folder's model_artifacts/, or its only model.

    The name may be the path of a folder, too. Raise ArtifactError.
    """
    return Model(find_model(name))
