"""Batches: score files of any size, in parts that run side by side."""


class BatchError(Exception):
    """A fault of the input or of the run. A retry does not help; the text is for the caller."""
