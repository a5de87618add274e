"""Writes docs/configuration.md from the settings' own records; `--check` says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from peerpods.clouds import registry
from peerpods.config.fields import options_of
from peerpods.config.settings import AdaptorSettings, AgentSettings, ForwarderSettings, GuestSettings, RelaySettings
from peerpods.kube.client.settings import KubeSettings
from peerpods.kube.peerpod.settings import PeerPodCtrlSettings
from peerpods.kube.peerpodconfig.settings import PeerPodConfigCtrlSettings
from peerpods.kube.webhook.settings import WebhookSettings

HEAD = """# Configuration

Made by `tools/document_settings.py` from the settings' own records; do not edit.

The value of a setting comes from the first of these that has one: its flag, its environment variable (an empty one
counts as unset), the TOML file named by `--config`, its default. TOML keys are the flags' names. A wrong setting ends
the service with exit code 2 and one line per mistake; `--check-config` prints every value with its origin and ends.

```toml
[adaptor]
provider = "libvirt"

[guest]
registries-json = "/etc/peerpods/registries.json"

[provider.libvirt]
uri = "qemu:///system"
```
"""


def table(title: str, settings: type[Any]) -> str:
    """One section: a row a setting."""
    lines = [f"\n## {title}\n", "| flag | environment | default | allowed | meaning |", "|---|---|---|---|---|"]
    for option in options_of(settings).values():
        default = "(required)" if option.required else f"`{option.default}`" if option.default != "" else ""
        env = f"`{option.env}`" if option.env else ""
        allowed = option.kind.allowed.replace("|", "\\|")
        lines.append(f"| `--{option.flag}` | {env} | {default} | {allowed} | {option.help.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def document() -> str:
    """The whole page."""
    parts = [
        HEAD,
        table("[adaptor]: `twistd adaptor`", AdaptorSettings),
        table("[guest]: what the adaptor tells every VM", GuestSettings),
        table("[relay]: `twistd relay`", RelaySettings),
        table("[webhook]: `twistd webhook`", WebhookSettings),
        table("[peerpod-ctrl]: `twistd peerpod-ctrl`", PeerPodCtrlSettings),
        table("[peerpodconfig-ctrl]: `twistd peerpodconfig-ctrl`", PeerPodConfigCtrlSettings),
        table("[kubernetes]: how a service reaches the API server", KubeSettings),
    ]
    for name in registry.names():
        parts.append(table(f"[provider.{name}]", registry.settings_class(name)))
    parts.append(table("Flags of `twistd forwarder`, in the VM", ForwarderSettings))
    parts.append(table("Flags of `twistd agent`, in the VM", AgentSettings))
    return "".join(parts)


def main() -> int:
    """0; with --check 1 when the page is stale."""
    path = Path("docs/configuration.md")
    if "--check" in sys.argv:
        if path.read_text() != document():
            print("docs/configuration.md is stale: run python tools/document_settings.py")
            return 1
        return 0
    path.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main())
