"""The Open Inference Protocol, KServe v1, MLflow and SageMaker. Imported at their first request."""
