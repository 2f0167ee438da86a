"""The Lambda entry point of the SQS worker: `handler.jobs.function.lambda_handler`.

Importing this module loads the model, in Lambda's init phase.
"""

import gc

from handler import settings
from handler.jobs import worker

lambda_handler = worker.create(settings.read())
gc.freeze()  # imported objects stay, so the collector need not scan them again
