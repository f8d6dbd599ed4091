"""Compression of feature rankers: smaller tables, fewer values and features, small students of large teachers."""
