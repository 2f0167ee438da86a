"""Asynchronous jobs: their storage and the SQS worker."""
