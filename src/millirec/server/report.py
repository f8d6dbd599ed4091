"""What the supervisor and its workers tell each other: settings in the environment, one JSON line back on a pipe."""

import msgspec

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


Report = Ready | Failed
