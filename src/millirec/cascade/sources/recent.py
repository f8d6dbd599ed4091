"""The last items of a history."""

from millirec.cascade.query import Asked


def recent(asked: Asked, events: int) -> list[int]:
    """The rows of the last `events` different items that are known, the newest first."""
    if asked.history is None:
        return []
    known = asked.history[asked.history > 0][::-1].tolist()
    return list(dict.fromkeys(known))[:events]
