"""The demonstration: one registry, eight vehicles, three versions, no dropped inference."""
