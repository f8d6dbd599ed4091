"""`Event`: the only fact. Everything else is derived from events.

`ItemUpdate` and `UserUpdate` tell what is newly known of an item or a user; `Record` is any line of the log.
"""

import hashlib

import msgspec

from millirec.data.errors import DataError

Context = dict[str, str | float | int | bool]
IMPRESSION = "impression"
"""The action of an event that says what somebody was shown, not what he did."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event", tag="interaction"):
    """Somebody did something with an item at a time.

    `time` is in milliseconds since 1970-01-01 UTC. An anonymous event has a `session` and no `user`.
    """

    item: str
    time: int
    user: str | None = None
    session: str | None = None
    action: str = "interaction"
    value: float | None = None
    context: Context | None = None

    def __post_init__(self) -> None:
        if not self.user and not self.session:
            raise DataError("event has neither `user` nor `session`", "give one of them a non-empty value")
        if not self.item:
            raise DataError("event has an empty `item`", "give the id of the item")

    @property
    def key(self) -> bytes:
        """Whose state this event changes: the user, or else the session; what he was shown is kept apart."""
        key = state_key(self.user, self.session)
        return shown_key(key) if self.is_impression else key

    @property
    def is_impression(self) -> bool:
        """Whether it says what was shown. It counts for caps, and is no part of anybody's history."""
        return self.action == IMPRESSION


Fields = dict[str, str | float | bool | list[str]]


class ItemUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="item"):
    """Newly known fields of an item; others stay as they were. `available: false` takes the item down.

    `time` is in milliseconds since 1970-01-01 UTC.
    """

    item: str
    time: int
    fields: Fields

    def __post_init__(self) -> None:
        if not self.item:
            raise DataError("item update has an empty `item`", "give the id of the item")
        if not isinstance(self.fields.get("available", True), bool):
            raise DataError(f"item {self.item!r}: `available` must be true or false", "send a JSON boolean")


class UserUpdate(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="user"):
    """Newly known fields of a user; others stay as they were. `time` as in `ItemUpdate`."""

    user: str
    time: int
    fields: Fields

    def __post_init__(self) -> None:
        if not self.user:
            raise DataError("user update has an empty `user`", "give the id of the user")


Record = Event | ItemUpdate | UserUpdate


def state_key(user: str | None, session: str | None) -> bytes:
    """The key of a user's (or else of an anonymous session's) state. A user can never collide with a session.

    Long ids are hashed, since embedded stores bound the length of a key.
    """
    prefix, name = (b"u:", user) if user else (b"s:", session or "")
    key = prefix + name.encode()
    if len(key) <= 200:
        return key
    return prefix + b"#" + hashlib.sha256(key).hexdigest().encode()


def shown_key(key: bytes) -> bytes:
    """The key of what somebody was shown, by the key of his state."""
    return b"i" + key
