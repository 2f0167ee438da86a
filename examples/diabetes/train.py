"""How the shipped model was made: `python examples/diabetes/train.py OUT_DIR`.

scikit-learn's bundled diabetes study (Efron et al. 2004): 442 patients, ten measurements at the
start, and how far the disease had progressed a year later. Writes to OUT_DIR:

    model.onnx      one input of shape [N, 1] per feature, one output `progression` of shape [N, 1]
    reference.csv   every patient's features: the sample for `answerable pack`
    metrics.json    how well model.onnx itself (not the pipeline it came from) does on held-out rows

In real life a blood sample may be lost, so the serum values may be missing. The study has none
missing: a small seeded share of them is knocked out, in what is trained on and in the reference.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import skl2onnx
from numpy.typing import NDArray
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

SEED = 20
LOST = 0.03  # share of the serum values that is knocked out

# the study's columns, in its order
COLUMNS = {
    "age": "age",
    "sex": "sex",
    "bmi": "bmi",
    "bp": "blood_pressure",
    "s1": "total_cholesterol",
    "s2": "ldl",
    "s3": "hdl",
    "s4": "cholesterol_ratio",
    "s5": "triglycerides_log",
    "s6": "glucose",
}
NAMES = list(COLUMNS.values())
SEX, BODY, SERUM = [1], [0, 2, 3], [4, 5, 6, 7, 8, 9]

Table = NDArray[Any]


def patients() -> tuple[Table, Table]:
    """Features of dtype object, shape [442, 10], some serum values NaN; the target, [442]."""
    study = load_diabetes(scaled=False)
    if study.feature_names != list(COLUMNS):
        raise SystemExit("scikit-learn's diabetes study has other columns than expected")
    lost = np.random.default_rng(SEED).random((len(study.data), len(SERUM))) < LOST
    rows = study.data.astype(object)
    rows[:, SERUM] = np.where(lost, np.nan, rows[:, SERUM])
    # The study does not say which sex is 1 and which is 2, so the codes stay, as names.
    rows[:, SEX] = study.data[:, SEX].astype(int).astype(str)
    return rows, study.target


def pipeline() -> Pipeline:
    """Imputation, one-hot encoding and boosted trees, untrained.

    The trees' settings are the best of six by cross-validation on the training rows alone.
    """
    columns = ColumnTransformer(
        [
            ("sex", OneHotEncoder(handle_unknown="ignore"), SEX),
            ("body", "passthrough", BODY),
            ("serum", SimpleImputer(strategy="median"), SERUM),
        ]
    )
    trees = GradientBoostingRegressor(
        n_estimators=150,
        learning_rate=0.03,
        max_depth=3,
        min_samples_leaf=15,
        subsample=0.5,
        random_state=SEED,
    )
    return Pipeline([("columns", columns), ("trees", trees)])


def export(model: Pipeline) -> bytes:
    """The trained pipeline as ONNX, with its one output under the name `progression`."""
    text, number = StringTensorType([None, 1]), FloatTensorType([None, 1])
    graph = skl2onnx.to_onnx(
        model,
        initial_types=[(name, text if name == "sex" else number) for name in NAMES],
        final_types=[("progression", number)],
        target_opset=18,
    )
    # to_onnx names the graph at random; the same training must give the same bytes
    graph.graph.name = "diabetes"
    return bytes(graph.SerializeToString(deterministic=True))


def predict(onnx: bytes, rows: Table) -> Table:
    """What the exported model says, shape [rows]."""
    feeds = {
        name: rows[:, [i]] if name == "sex" else rows[:, [i]].astype(np.float32)
        for i, name in enumerate(NAMES)
    }
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    return np.ravel(session.run(["progression"], feeds)[0])


def write_csv(path: Path, rows: Table) -> None:
    """The rows under their names; a missing value is an empty cell."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(NAMES)
        # NaN is the one value that is not itself
        lines.writerows(["" if cell != cell else cell for cell in row] for row in rows.tolist())


def main() -> None:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description="Train and export the diabetes example.")
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="made if it is not there")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    rows, target = patients()
    train, held_out, train_target, held_out_target = train_test_split(
        rows, target, test_size=0.2, random_state=SEED
    )
    onnx = export(pipeline().fit(train, train_target))
    answers = predict(onnx, held_out)
    metrics = {
        "held_out_mae": round(mean_absolute_error(held_out_target, answers), 2),
        "held_out_r2": round(r2_score(held_out_target, answers), 3),
        "held_out_rows": len(held_out),
    }
    (out / "model.onnx").write_bytes(onnx)
    write_csv(out / "reference.csv", rows)
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: " + ", ".join(f"{name} {value}" for name, value in metrics.items()))


if __name__ == "__main__":
    main()
