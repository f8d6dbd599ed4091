"""A log in compact columns: as few bytes as its numbers need, read by mapping the file and a few array operations."""

from millirec.data.compact.log import check_place, is_compact, load_compact, save_compact

__all__ = ["check_place", "is_compact", "load_compact", "save_compact"]
