"""A module that can't be imported."""

raise RuntimeError("raises on import")
