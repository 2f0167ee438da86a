"""What `answerable pack` is made of: each module knows one part of an artifact."""
