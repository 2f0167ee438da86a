"""The AWS side, CDK only: one stack per model and stage, one file per construct."""
