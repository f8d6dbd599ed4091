"""What every source's config has: a tag, and filters."""

import msgspec

from millirec.data.errors import ConfigError


class Filters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """`min_user_events`, `min_item_events`: leave out users and items with fewer events, repeated until stable."""

    min_user_events: int = 1
    min_item_events: int = 1

    def __post_init__(self) -> None:
        for name in ("min_user_events", "min_item_events"):
            if getattr(self, name) < 1:
                raise ConfigError(f"$.data.{name} = {getattr(self, name)}", "choose 1 (off) or more")
