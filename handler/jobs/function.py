"""The Lambda entry point of the SQS worker, `lambda_handler`. Importing it loads the model."""

import gc

from handler import settings
from handler.jobs import worker

lambda_handler = worker.create(settings.read())
gc.freeze()  # imported objects stay, so the collector need not scan them again
