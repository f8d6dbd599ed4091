"""The sizes that sources have."""

from millirec.data.errors import ConfigError


def check_sizes(kind: str, **sizes: int | None) -> None:
    """Raises ConfigError for a size below 1."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ConfigError(f'$.cascade.sources ("{kind}").{name} = {size}', "choose at least 1")
