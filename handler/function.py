"""The Lambda entry point of the API: `handler.function.lambda_handler`.

Importing this module loads the model, in Lambda's init phase. No other import does.
"""

import gc

gc.disable()  # imports allocate a lot and free little: collecting costs 12 ms of a cold start

from handler import app, settings  # noqa: E402

lambda_handler = app.create(settings.read())
gc.freeze()  # imported objects stay, so the collector need not scan them again
gc.enable()
