"""Drift monitoring: bins of the live values, and the drift statistic."""
