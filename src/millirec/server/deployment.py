"""`Deployments`: which bundle serves, with which cascade, and which ones did before it."""

import msgspec

from millirec.cascade.cascade import CascadeConfig

_REMEMBERED = 20


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle's folder, and the cascade that is used in the place of its own.

    `cascade_file`: where that was read from. `model`, `version` and `since` (ms) are known once it serves.
    """

    bundle: str
    cascade: CascadeConfig | None = None
    cascade_file: str | None = None
    model: str = ""
    version: str = ""
    since: int = 0


class Deployments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `serves`, and what served `before`, the latest first."""

    serves: Deployment
    before: tuple[Deployment, ...] = ()

    def swapped(self, to: Deployment) -> "Deployments":
        """`to` serves; what served until now is the first to go back to."""
        return Deployments(serves=to, before=(self.serves, *self.before)[:_REMEMBERED])

    def rolled_back(self) -> "Deployments":
        """What served before serves again; what served until now is forgotten. There must be some."""
        return Deployments(serves=self.before[0], before=self.before[1:])

    def opened(self, model: str, version: str, since: int) -> "Deployments":
        """With what is known of `serves` once it is open."""
        told = msgspec.structs.replace(self.serves, model=model, version=version, since=since)
        return msgspec.structs.replace(self, serves=told)
