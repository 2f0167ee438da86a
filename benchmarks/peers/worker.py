"""The product's worker, its results written to the peers' bucket."""

from benchmarks.peers import bucket
from handler import settings, worker
from handler.jobs import Store

lambda_handler = worker.create(settings.read(), Store(bucket, None, "results", "", 86400))
