"""`ServerSettings`: what a server process must know. Workers receive it as JSON in one environment variable."""

import msgspec

from millirec.cascade.cascade import CascadeConfig
from millirec.data.errors import ConfigError
from millirec.engine.impressions import ImpressionSettings
from millirec.engine.settings import EngineSettings
from millirec.server.deployment import Deployment, Deployments


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one server.

    `bundle` and `data` are folders. `body_bytes`: longest body taken. `max_in_flight`: requests that one worker
    handles at a time; more are answered with 429. `max_batch`: most questions that share one encoder call.
    `yardstick` opens POST /noop, the benchmark's yardstick. `grace_seconds`: how long a stop waits for answers.
    `expire_after_days`: users and sessions untouched for so long are forgotten (their events stay in the log).
    `engine`: how each worker's engine runs. `cascade`: used instead of the bundle's own. `impressions`:
    what is shown is logged in `impressions` below `data`; None = it is not.

    `bundles`: the folder whose bundles may be swapped in over HTTP; None = there are no such calls. `admin_token`: what
    these calls must bring; None = nothing. `deployed`: what serves instead of `bundle` since such a call.
    """

    bundle: str
    data: str
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    body_bytes: int = 1 << 20
    max_in_flight: int = 1024
    max_batch: int = 64
    yardstick: bool = False
    access_log: bool = False
    grace_seconds: int = 20
    expire_after_days: float | None = None
    engine: EngineSettings = EngineSettings()
    cascade: CascadeConfig | None = None
    cascade_file: str | None = None
    impressions: ImpressionSettings | None = None
    bundles: str | None = None
    admin_token: str | None = None
    deployed: Deployments | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"$.port = {self.port} is no port", "choose 1 to 65535, or 0 for a free one")
        for name in ("workers", "body_bytes", "max_in_flight", "max_batch", "grace_seconds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"$.{name} = {getattr(self, name)}", "choose at least 1")

    def deployments(self) -> Deployments:
        """What serves, and what did before."""
        given = Deployment(bundle=self.bundle, cascade=self.cascade, cascade_file=self.cascade_file)
        return self.deployed or Deployments(serves=given)
