"""The steps of `answerable pack`."""
