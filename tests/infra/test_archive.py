"""The archive: what goes to S3, how, and who may write it."""

import json

from tests.infra.conftest import Synth, Template
from tests.infra.test_security import allowed


def test_the_archive_is_off_by_default(template: Template) -> None:
    assert not template.all("AWS::KinesisFirehose::DeliveryStream")
    assert not template.all("AWS::Logs::SubscriptionFilter")


def test_records_are_partitioned_after_they_are_taken_apart(synth: Synth) -> None:
    template = synth.template("archive=true", "log_payloads=full")
    stream = template.one("AWS::KinesisFirehose::DeliveryStream")["Properties"]
    target = stream["ExtendedS3DestinationConfiguration"]
    for word in ("model=", "version=", "date="):
        assert word in target["Prefix"]
    assert target["DynamicPartitioningConfiguration"] == {"Enabled": True}
    assert target["BufferingHints"] == {"IntervalInSeconds": 900, "SizeInMBs": 64}
    processors = [item["Type"] for item in target["ProcessingConfiguration"]["Processors"]]
    assert processors == [
        "Decompression",
        "CloudWatchLogProcessing",
        "RecordDeAggregation",
        "MetadataExtraction",
        "AppendDelimiterToRecord",
    ]


def test_the_archive_keeps_what_it_has(synth: Synth) -> None:
    template = synth.template("archive=true", "log_payloads=full")
    bucket = template.one("AWS::S3::Bucket")
    assert bucket["DeletionPolicy"] == "RetainExceptOnCreate"
    assert bucket["UpdateReplacePolicy"] == "Retain"
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["Properties"]["LifecycleConfiguration"]["Rules"]
    writer = allowed(template, "ArchiveWriter")
    assert not [action for action in writer if "Delete" in action or "*" in action]


def test_records_of_every_function_are_archived(synth: Synth) -> None:
    template = synth.template("archive=true", "jobs=true", "auth=api-key")
    filters = [f["Properties"] for f in template.all("AWS::Logs::SubscriptionFilter").values()]
    groups = {json.dumps(item["LogGroupName"]) for item in filters}
    assert len(groups) == 2
    for item in filters:
        assert item["RoleArn"]
        for message in ("request", "job", "outcomes"):
            assert f'$.message = "{message}"' in item["FilterPattern"]


def test_a_delivery_that_stops_makes_a_ticket(synth: Synth) -> None:
    template = synth.template("archive=true", "jobs=true", "auth=api-key")
    (alarm,) = [a for name, a in template.alarms().items() if name.startswith("Archive")]
    assert alarm["AlarmName"] == "dev-diabetes-archive-delivery"
    assert (alarm["Namespace"], alarm["Threshold"]) == ("AWS/Firehose", 3600)
    assert alarm["TreatMissingData"] == "notBreaching"
    assert alarm["AlarmActions"]
