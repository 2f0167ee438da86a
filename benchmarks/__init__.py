"""The product beside what would otherwise be picked: `python -m benchmarks`."""
