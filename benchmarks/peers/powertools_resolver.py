"""Powertools' resolver with validation, Logger and Metrics as its documentation shows; no Tracer.

One log line and one metric a request: the least with which a service can be operated.
"""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.logging import correlation_paths
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from benchmarks.peers.schema import Answer, Body, score

logger = Logger(service="diabetes")
metrics = Metrics(namespace="Benchmark", service="diabetes")
app = APIGatewayRestResolver(enable_validation=True)


@app.post("/predict")
def predict(body: Body) -> Answer:
    answer = score(body.instances)
    logger.info("predicted", rows=len(answer.predictions))
    metrics.add_metric(name="Rows", unit=MetricUnit.Count, value=len(answer.predictions))
    return answer


@logger.inject_lambda_context(correlation_id_path=correlation_paths.API_GATEWAY_REST)
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    return app.resolve(event, context)
