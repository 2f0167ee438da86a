"""The error of packing."""


class PackError(Exception):
    """The model or its data cannot be packed. The message is one line for the developer."""
