"""Drift monitoring: bins of live values, the hourly monitor, and its decision."""
