"""Deployment hooks, version checks, rollback."""
