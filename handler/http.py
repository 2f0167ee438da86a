"""HTTP requests and responses as the routes see them, whatever the event source."""

from typing import NamedTuple

JSON = "application/json"
# of a request's `Accept`: float32 tensors of predictions as base64
BASE64_JSON = "application/json;tensors=base64"
PROBLEM_JSON = "application/problem+json"
OCTET_STREAM = "application/octet-stream"
CSV = "text/csv"
NPY = "application/x-npy"
IMAGE_TYPES = ("image/jpeg", "image/png")

OPENAPI_PATH = "/openapi.json"

# the length of the JSON that precedes binary tensors (Open Inference Protocol)
INFERENCE_HEADER_LENGTH = "inference-header-content-length"
IDEMPOTENCY_KEY = "idempotency-key"

# sent with every response
COMMON_HEADERS = {"x-content-type-options": "nosniff"}


class Request(NamedTuple):
    """A request.

    `headers`: by lower-case name. `body`: as the event has it, base64 if `is_base64`. `request_id`:
    "" if unknown. `supports_binary_response`: the event source decodes a base64 response; a REST
    API looks at the client's `Accept` first. `path_params`: of the route's {parameters}. `caller`:
    the authenticated principal, or "". `may_have_base_path`: the path may begin with the API
    mapping of a custom domain. `synthetic`: sent by a release hook or a probe, as `requestContext`
    says, because clients can set headers. `base_url`: of the API, for OPENAPI_PATH alone, "" where
    unknown. `has_upload_parameter`: of the query, the only parameter that any route reads.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: str
    is_base64: bool
    request_id: str
    supports_binary_response: bool = False
    path_params: dict[str, str] = {}
    caller: str = ""
    may_have_base_path: bool = False
    synthetic: bool = False
    base_url: str = ""
    has_upload_parameter: bool = False


class Response(NamedTuple):
    """A response. `body` is UTF-8 JSON, unless its headers say otherwise."""

    status: int
    body: bytes
    headers: dict[str, str]
