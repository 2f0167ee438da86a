"""The smoke test that closes a deployment: golden rows of the live version, then the URL."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from answerable.stack import stack_outputs
from handler.release import version_client
from handler.release.rollback import Log, ReleaseError, Service
from handler.release.version_client import VersionClient
from infra.settings import Settings

SECONDS = 40  # for one call of the URL, a cold start included
Get = Callable[[str, Mapping[str, str]], int]


def check_live_version(service: Service, log: Log) -> None:
    """Ask the live version its golden rows. Raises ReleaseError if an answer is wrong.

    This also covers a first deployment and all-at-once, where no canary is in between.
    """
    from botocore.exceptions import ClientError

    alias = service.alias()
    version = VersionClient(service.client("lambda"), alias["AliasArn"])
    try:
        manifest, reason = version.manifest()
        if manifest is None:
            raise ReleaseError(f"version {alias['FunctionVersion']} does not answer: {reason}")
        result = version_client.check_golden_rows(version, manifest, math.inf)
        if service.worker and not version.other(service.alias(service.worker)["AliasArn"]).starts():
            raise ReleaseError("the jobs' worker does not start: see its log")
    except ClientError as error:
        if "AccessDenied" not in error.response["Error"]["Code"]:
            raise
        arn = alias["AliasArn"]
        raise ReleaseError(f"the smoke test needs lambda:InvokeFunction on {arn}") from None
    if result.reasons:
        raise ReleaseError(f"the live version is not as packed: {'; '.join(result.reasons)}")
    log(f"version {alias['FunctionVersion']}: {result.rows} golden rows answered as packed")


def check_url(service: Service, settings: Settings, get: Get, log: Log) -> None:
    """Call the deployed URL as a client. Raises ReleaseError if it does not answer."""
    client, auth = service.client, settings.auth
    if settings.vpc_endpoint_ids or settings.truststore_uri:
        log("the URL is not called: it is private, or needs a client's certificate")
        return
    stacks = client("cloudformation").describe_stacks(StackName=service.stack)["Stacks"]
    outputs = stack_outputs(stacks[0])
    url = f"{outputs['Url']}ping"
    headers: Mapping[str, str] = {}
    if auth == "iam":
        headers = sign(url, "lambda" if settings.endpoint == "url" else "execute-api")
    elif auth == "api-key":
        key = client("apigateway").get_api_key(apiKey=outputs["ApiKeyId"], includeValue=True)
        headers = {"x-api-key": key["value"]}
    status = get(url, headers)
    if auth in ("cognito", "jwt", "lambda"):
        if status != 401:
            raise ReleaseError(f"{url} answers {status} without a token, instead of 401")
        log(f"{url}: 401 without a token")
    elif status == 403 and auth == "iam":
        # https://<api>.execute-api.<region>.amazonaws.com/<stage>/
        host, _, path = url.removeprefix("https://").partition("/")
        api, _, region, *_ = host.split(".")
        stage = path.removesuffix("ping").rstrip("/") or "$default"
        arn = f"arn:aws:execute-api:{region}:*:{api}/{stage}/*"
        needed: list[Any] = [{"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": arn}]
        if settings.endpoint == "url":
            # with the second alone a client could invoke the function with any event
            # https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html
            on_alias = needed[0] | {"Resource": service.alias()["AliasArn"]}
            actions = ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction")
            needed = [on_alias | {"Action": action} for action in actions]
            needed[1]["Condition"] = {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}
        raise ReleaseError(f"{url} answers 403. A client needs the policy {json.dumps(needed)}")
    elif status != 200:
        raise ReleaseError(f"{url} answers {status}")
    else:
        log(f"{url}: 200")


def sign(url: str, service: str) -> dict[str, str]:
    """Return the headers of a GET, signed with the caller's credentials."""
    import boto3
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    session: Any = boto3.Session()
    request = AWSRequest("GET", url)
    SigV4Auth(session.get_credentials(), service, session.region_name).add_auth(request)
    return dict(request.headers)


def get_status(url: str, headers: Mapping[str, str]) -> int:
    """Return the status of a GET. Raises ReleaseError if there is no response."""
    try:
        with urlopen(Request(url, headers=dict(headers)), timeout=SECONDS) as response:  # noqa: S310
            return int(response.status)
    except HTTPError as error:
        return error.code
    except (URLError, TimeoutError) as error:
        raise ReleaseError(f"{url} does not answer: {error}") from None
