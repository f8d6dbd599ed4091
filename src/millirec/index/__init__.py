"""Item indexes: search(vectors, k) -> Matches."""
