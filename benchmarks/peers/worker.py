"""The product's worker, its results written to the peers' bucket.

By one thread: more of them are for the time that S3 takes, and there is none in this.
"""

from benchmarks.peers import bucket
from handler import settings
from handler.jobs import worker
from handler.jobs.storage import JobStore

lambda_handler = worker.create(
    settings.read(), JobStore(bucket, None, "results", "", 86400, threads=1)
)
