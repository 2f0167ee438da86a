"""The Lambda entry point of the API, `lambda_handler`. Importing it loads the model, once."""

import gc

gc.disable()  # imports free little; collecting garbage would add 12 ms to a cold start

from handler.lazy_modules import defer_imports  # noqa: E402

defer_imports()

from handler import app, settings  # noqa: E402

lambda_handler = app.create(settings.read())
gc.freeze()  # imported objects stay, so they are not scanned again
gc.enable()
