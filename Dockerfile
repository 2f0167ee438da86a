# The function's image: locked dependencies, handler/ and one packed model, nothing else.
# infra/image.py assembles the build context: this file, requirements/ (function.txt, and what
# only models with text or pictures need), handler/, model/.
# Every Lambda function of a stack runs this image and names its own entry point as the command.
#
#   make image MODEL=diabetes
#
# AWS's base image brings the runtime client, the emulator and /lambda-entrypoint.sh. Pin it by
# digest for builds that must repeat to the byte: BASE_IMAGE=…/python@sha256:…
ARG BASE_IMAGE=public.ecr.aws/lambda/python:3.13

FROM ${BASE_IMAGE} AS build
WORKDIR /build
COPY requirements .
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install --require-hashes --only-binary=:all: --no-compile --no-deps \
        --target /task $(printf -- '-r %s ' *.txt)
COPY infra/strip_packages.py .
RUN python3 strip_packages.py /task
COPY handler /handler
# Compiled here because /var/task is read-only in Lambda: without .pyc every cold start compiles
# again (2.5 times slower). unchecked-hash: nobody edits an image, so no stat per module either,
# and the bytes do not depend on when the files were checked out.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /task -p /var/task /task \
 && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        -s /handler -p /var/task/handler /handler
COPY model /model
# Root owns everything and nobody may write: Lambda runs the code as an unprivileged user.
RUN chmod -R a=rX /task /handler /model

FROM ${BASE_IMAGE}
# In the order of how rarely they change, so that a new model pushes only its own layer.
COPY --from=build /task /var/task
COPY --from=build /handler /var/task/handler
ARG MODEL
COPY --from=build /model /var/task/model_artifacts/${MODEL}
# onnxruntime's telemetry (a thread and a database file) must be off before it is imported. One
# BLAS thread: numpy only moves rows here, and starting its pool costs a quarter of a cold start.
ENV MODEL_DIR=/var/task/model_artifacts/${MODEL} \
    ORT_DISABLE_TELEMETRY=1 \
    OPENBLAS_NUM_THREADS=1 \
    PYTHONDONTWRITEBYTECODE=1
ARG MODEL_VERSION=unknown
ARG MODEL_SHA256=unknown
ARG GIT_COMMIT=unknown
LABEL org.opencontainers.image.title="answerable ${MODEL}" \
      org.opencontainers.image.version="${MODEL_VERSION}" \
      org.opencontainers.image.revision="${GIT_COMMIT}" \
      answerable.model.name="${MODEL}" \
      answerable.model.version="${MODEL_VERSION}" \
      answerable.model.sha256="${MODEL_SHA256}" \
      com.amazonaws.lambda.feature.snapstart="Allow"
WORKDIR /var/task
CMD ["handler.function.lambda_handler"]
