"""Models of files/: boosters and torch exports (made by make_files.py), and reported cases."""

from typing import Any

from tests.zoo.registry import FILES, Built, accepted, committed, misread, refused, zoo

CUSTOMER: dict[str, Any] = {
    "age": 41,
    "income": 36000.5,
    "visits": 3,
    "tenure": 4.25,
    "score": 0.5,
    "region": 2,
}
GAPS = CUSTOMER | {"income": None, "tenure": None}

MISSING = (
    accepted("inside the sample", **CUSTOMER),
    accepted("missing values, as in the sample", **GAPS),
    accepted("far outside the sample, and trees take any number", **CUSTOMER | {"age": 900}),
)

# --- boosters ---------------------------------------------------------------------------------


@zoo("table", requests=MISSING)
def xgb_classifier() -> Built:
    """XGBoost, two classes, missing values; no ZipMap."""
    return committed("xgb-classifier")


@zoo("table", fast=False)
def xgb_multiclass() -> Built:
    """XGBoost, four classes, no missing values."""
    return committed("xgb-multiclass")


@zoo("table", fast=False, requests=MISSING)
def xgb_regressor() -> Built:
    """XGBoost, one number, missing values."""
    return committed("xgb-regressor")


@zoo(
    "table",
    fast=False,
    requests=(
        accepted(
            "a category that the encoder ignores",
            age=41,
            income=36000.5,
            visits=3,
            tenure=4.25,
            score=0.5,
            city="Quito",
        ),
    ),
)
def xgb_categories() -> Built:
    """XGBoost behind a OneHotEncoder that ignores unknown categories; one input per column."""
    return committed("xgb-categories")


@zoo("table", fast=False, requests=(MISSING[0],))
def xgb_native_categories() -> Built:
    """XGBoost with its own categorical splits: `region` is a code in a float tensor."""
    return committed("xgb-native-categories")


@zoo("table", requests=MISSING)
def lgbm_classifier() -> Built:
    """LightGBM, three named classes, missing values; declares its label as [1]."""
    return committed("lgbm-classifier")


@zoo("table", fast=False, requests=MISSING)
def lgbm_regressor() -> Built:
    """LightGBM, one number, missing values, and `region` as a category."""
    return committed("lgbm-regressor")


@zoo("table", fast=False, tolerance=10)
def lgbm_timestamps() -> Built:
    """LightGBM on seconds since 1970: the export differs from the framework by up to 5.

    The export's thresholds are float32, which has steps of 128 there. The graph is served as it is.
    """
    return committed("lgbm-timestamps")


@zoo("table", fast=False, requests=MISSING)
def catboost_classifier() -> Built:
    """CatBoost, two named classes, missing values; no default operator set, IR 3."""
    return committed("catboost-classifier")


@zoo("table", requests=MISSING)
def catboost_regressor() -> Built:
    """CatBoost, one number, missing values; declares [N] and returns [N, 1]."""
    return committed("catboost-regressor")


# --- torch ------------------------------------------------------------------------------------


@zoo("tensor", fast=False, batch="single")
def cnn_fixed_batch() -> Built:
    """A CNN for one image, [1, 3, 16, 16]."""
    return committed("cnn-fixed-batch")


@zoo("tensor", fast=False, batch="single")
def cnn_fixed_batch_drawn() -> Built:
    """A CNN for one image, packed without a sample."""
    return committed("cnn-fixed-batch")._replace(sample=None)


@zoo("tensor")
def cnn_free_batch() -> Built:
    """A CNN for any number of images, [batch, 3, 16, 16], from the tracing exporter."""
    return committed("cnn-free-batch")


@zoo(
    "tensor",
    fast=False,
    requests=(
        accepted("a shorter series than the sample's", series=[[0.5, -0.25, 1.0]] * 3),
        accepted("a longer series than the sample's", series=[[0.5, -0.25, 1.0]] * 50),
        refused("no steps at all", series=[]),
        refused("a step of two numbers", series=[[0.5, -0.25]]),
    ),
)
def gru_batch_first() -> Built:
    """A GRU over [batch, time, 3] with a free time axis."""
    return committed("gru-batch-first")


@zoo(
    "tensor",
    batch="none",
    requests=(accepted("another length", series=[[[0.5, -0.25, 1.0, 2.0]]] * 4),),
)
def gru_sequence_first() -> Built:
    """A GRU over [time, 1, 4]: the free leading axis is the time, and an instance is the tensor."""
    return committed("gru-sequence-first")


@zoo(
    "tokens",
    requests=(
        accepted(
            "a shorter text",
            input_ids=[5, 6, 7],
            attention_mask=[1, 1, 1],
            token_type_ids=[0, 0, 0],
        ),
        accepted("the last token", input_ids=[99], attention_mask=[1], token_type_ids=[0]),
        refused("a token too far", input_ids=[100], attention_mask=[1], token_type_ids=[0]),
        refused("token 99999", input_ids=[99999], attention_mask=[1], token_type_ids=[0]),
        misread("token -1", input_ids=[-1], attention_mask=[1], token_type_ids=[0]),
        refused("type 2 of 2", input_ids=[5], attention_mask=[1], token_type_ids=[2]),
        refused(
            "lengths that differ",
            input_ids=[5, 6, 7],
            attention_mask=[1, 1],
            token_type_ids=[0, 0, 0],
        ),
        refused("no tokens", input_ids=[], attention_mask=[], token_type_ids=[]),
        refused(
            "longer than the 32 positions",
            input_ids=[5] * 33,
            attention_mask=[1] * 33,
            token_type_ids=[0] * 33,
        ),
    ),
)
def bert_tokens() -> Built:
    """A BERT-like classifier: three int64 inputs of one free length, two outputs."""
    return committed("bert-tokens")


@zoo("table", fast=False)
def embedding_output() -> Built:
    """An encoder of a table's rows: unit vectors [N, 24]."""
    return committed("embedding-output")


# --- reported cases, byte for byte ------------------------------------------------------------

CASES = FILES / "cases"


@zoo("table")
def case_catboost_regressor() -> Built:
    """A reported CatBoost regressor, with a boolean column in its float tensor."""
    return committed("cb_reg", CASES, "boost.csv")


@zoo("table", requests=(accepted("inside the sample", a=0.5, b=-0.5, c=0.1),))
def case_svc_scores() -> Built:
    """A reported SVC without probabilities: its scores may be negative."""
    return committed("sk-svc-noprob", CASES, "sk3.csv")


@zoo(
    "table",
    requests=(
        accepted("the last row of the table", item=9),
        refused("one too far", item=10),
        refused("11", item=11),
        misread("-1, which Gather counts from the end", item=-1),
    ),
)
def case_embedding() -> Built:
    """A reported lookup: Gather from a table of ten rows by an integer feature."""
    return committed("embed", CASES, "embed.csv")


@zoo("table", requests=(accepted("a category that the encoder ignores", age=40, city="Quito"),))
def case_onehot_ignore() -> Built:
    """A reported pipeline: OneHotEncoder that ignores unknown categories."""
    return committed("cat-onehot-ignore", CASES, "cat.csv")


@zoo(
    "table",
    requests=(
        accepted("small and positive", x=0.001),
        refused("the logarithm of 0 is not finite", x=0),
        refused("the logarithm of -1 is no number", x=-1),
    ),
)
def case_log() -> Built:
    """A reported graph: Log, which fails at 0."""
    return committed("g-log", CASES, "g3.csv")


@zoo("names", expected=r"\bid\b")
def case_output_named_id() -> Built:
    """A reported graph: an output called `id`, a name of the product's answer."""
    return committed("g-outname-id", CASES, "g3.csv")


@zoo("graph", expected=r"IR version 99 is newer", valid=False, runs=False)
def case_ir_too_new() -> Built:
    """A reported graph: IR version 99."""
    return committed("g-ir99", CASES, "g3.csv")
