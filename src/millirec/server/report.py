"""What the supervisor and its workers tell each other: settings in the environment, then JSON lines on pipes.

A change of what serves has two steps, so that all workers change or none does: `Prepare` to all of them, and when each
has said `Prepared`, `Commit` to all of them. Only then does the worker that `Wanted` the change get its `Settled`.
"""

import msgspec

from millirec.server.deployment import Deployment, Deployments

SETTINGS, REPORT, PARENT = "MILLIREC_SERVER", "MILLIREC_REPORT", "MILLIREC_PARENT"
METRICS = "PROMETHEUS_MULTIPROC_DIR"


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The worker answers, with this model."""

    model: str
    version: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The worker cannot start, and no other would: the user has to mend something."""

    problem: str
    mend: str


class Wanted(msgspec.Struct, frozen=True, tag="wanted"):
    """Somebody asked this worker to change what serves: to `to`, or back to what served before.

    `number`: the worker's own, for the answer.
    """

    number: int
    to: Deployment | None


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """The next deployment is open and warm here."""

    model: str
    version: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The next deployment does not open here, or does not fit; or a change cannot be made now (`code`)."""

    problem: str
    mend: str
    code: str = "invalid_request"


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """The next deployment answers here from now on."""


Report = Ready | Failed | Wanted | Prepared | Refused | Committed


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """Open this; a `version` that it names must be the one found."""

    to: Deployment


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """Answer from what was prepared."""

    state: Deployments


class Abandon(msgspec.Struct, frozen=True, tag="abandon"):
    """Forget what was prepared."""


class Settled(msgspec.Struct, frozen=True, tag="settled"):
    """What became of the change that this worker wanted under `number`: None = it is made."""

    number: int
    refused: Refused | None = None


Order = Prepare | Commit | Abandon | Settled
