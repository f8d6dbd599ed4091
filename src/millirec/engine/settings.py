"""`EngineSettings`: limits of a question, and how the encoder runs. Apart, so that a supervisor loads no runtime."""

import msgspec

from millirec.data.errors import ConfigError


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a question, and how the encoder runs.

    `max_k`: items of one answer. `max_items`: ids in each list of a question. `threads`: cores for one encoder
    call. `parallel`: of a bundle with several models, whether they run at once, each in a thread, or one after the
    other, which suits a machine whose cores are all busy. `max_batch`, `max_padding`: see `batcher.groups`.
    `carry_mb`: memory for states that models with a single step go on from, 0 = histories are read anew each time; see
    `carry.Carry`. `ranker_users`: people that a ranker's training did not know whom its features remember; see
    `ranker.LiveRanker`.
    """

    max_k: int = 1_000
    max_items: int = 10_000
    threads: int = 1
    parallel: bool = True
    max_batch: int = 16
    max_padding: float = 0.25
    carry_mb: float = 64.0
    ranker_users: int = 1_000_000

    def __post_init__(self) -> None:
        for name in ("max_k", "max_items", "threads", "max_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"$.{name} = {getattr(self, name)}", "choose at least 1")
        if not 0 <= self.max_padding < 1:
            raise ConfigError(f"$.max_padding = {self.max_padding}", "choose a share from 0 to below 1")
        if self.ranker_users < 0:
            raise ConfigError(f"$.ranker_users = {self.ranker_users}", "choose 0 or more")
        if self.carry_mb < 0:
            raise ConfigError(f"$.carry_mb = {self.carry_mb}", "choose 0 (off) or more")

    def toml(self) -> str:
        """The settings as TOML, for `millirec serve --engine`."""
        values = msgspec.to_builtins(self).items()
        return "".join(f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in values)
