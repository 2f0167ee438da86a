"""Powertools' BatchProcessor with Logger and Metrics as its documentation shows; no Tracer.

A record is validated by Pydantic, scored and written; one log line and one metric a batch.
"""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.batch import (
    BatchProcessor,
    EventType,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from benchmarks.peers import bucket
from benchmarks.peers.schema import Body, score

logger = Logger(service="diabetes")
metrics = Metrics(namespace="Benchmark", service="diabetes")
processor = BatchProcessor(event_type=EventType.SQS)


def handle(record: SQSRecord) -> None:
    answer = score(Body.model_validate_json(record.body).instances)
    key = f"jobs/{record.message_id}/result.json"
    bucket.put_object(Bucket="results", Key=key, Body=answer.model_dump_json())


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> Any:
    response = process_partial_response(
        event=event, record_handler=handle, processor=processor, context=context
    )
    logger.info("scored", messages=len(event["Records"]))
    metrics.add_metric(name="Jobs", unit=MetricUnit.Count, value=len(event["Records"]))
    return response
