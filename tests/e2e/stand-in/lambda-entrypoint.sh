#!/bin/sh
# In Lambda the runtime API is there; anywhere else the emulator stands in for it.
[ $# -eq 1 ] || { echo "the command must be one entry point: module.function" >&2; exit 142; }
export _HANDLER="$1"
[ -n "$AWS_LAMBDA_RUNTIME_API" ] && exec /var/runtime/bootstrap
exec /usr/local/bin/aws-lambda-rie /var/runtime/bootstrap
