"""Drift monitoring: bins of live values, the hourly monitor, and its decision."""

BINS = 10  # of the values of each target
