"""Train and pack a classifier with a decision: `python examples/breast_cancer/train.py [FOLDER]`.

scikit-learn's bundled breast cancer study (Wolberg et al. 1995): 569 masses, 30 measurements each.
The fitted pipeline is packed as it is, and compared with scikit-learn's own predictions. The
artifact's folder is made in FOLDER, by default in model_artifacts.
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import answerable

SEED = 20
THRESHOLD = 0.2  # the contract's


def main(artifacts: str = "model_artifacts") -> None:
    """Train on three quarters, measure on the rest, pack."""
    study = load_breast_cancer(as_frame=True)
    labels = np.array(study.target_names)[study.target]
    train, held_out, train_labels, held_out_labels = train_test_split(
        study.data, labels, test_size=0.25, random_state=SEED, stratify=labels
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(train, train_labels)

    malignant = held_out_labels == "malignant"
    probability = model.predict_proba(held_out)[:, list(model.classes_).index("malignant")]
    metrics = {
        "held_out_auc": round(float(roc_auc_score(malignant, probability)), 4),
        "held_out_recall": round(float(recall_score(malignant, probability >= THRESHOLD)), 4),
        "held_out_rows": len(held_out),
    }
    packed = answerable.pack(
        model,
        study.data,
        name="breast-cancer",
        version="1.0.0",
        owner="Answerable's maintainers",
        reason="the first version: logistic regression on the Wisconsin study",
        contract=Path(__file__).parent / "contract.toml",
        metrics=metrics,
        artifacts=artifacts,
    )
    print(f"{packed.directory}: {metrics}")
    print(f"compared with scikit-learn: {packed.facts['parity']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
