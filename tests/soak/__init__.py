"""A soak: many clients for a long time, with a release in the middle."""
