"""Settings of the provider `memory`."""

from __future__ import annotations

import attrs

from peerpods.config import fields as f


@attrs.frozen(kw_only=True)
class MemorySettings:
    """Table [provider.memory]."""

    max_user_data: int = f.option(
        "max-user-data", f.integer(1, 1 << 24), 65536, "largest user data in bytes, to try the limit"
    )
    boot_delay: float = f.option("boot-delay", f.seconds(0, 600), 0.0, "seconds from create to the instance's address")
    guest: str = f.option(
        "guest",
        f.choice("normal", "refuses", "silent"),
        "normal",
        "what answers at an instance: an agent, nobody (a VM that never boots), or one that never answers",
    )
