"""Settings of the provider `netns`."""

from __future__ import annotations

import ipaddress
import shlex

import attrs

from peerpods.config import fields as f


def _subnet() -> f.Kind:
    def parse(value: str) -> str:
        net = ipaddress.IPv4Network(value)
        if not 8 <= net.prefixlen <= 28:
            raise ValueError(value)
        return value

    return f.Kind("an IPv4 network such as 10.118.0.0/16, /8 to /28", parse)


def _command() -> f.Kind:
    def parse(value: str) -> str:
        if value and not shlex.split(value):
            raise ValueError(value)
        return value

    return f.Kind("a command line, or nothing for our own", parse)


@attrs.frozen(kw_only=True)
class NetnsSettings:
    """Table [provider.netns]."""

    subnet: str = f.option("subnet", _subnet(), "10.118.0.0/16", "underlay: the first address is the node's")
    instances_dir: str = f.option(
        "instances-dir", f.path(), "/run/peerpods-netns", "one folder per instance: facts, user data, console"
    )
    max_user_data: int = f.option("max-user-data", f.integer(1, 1 << 24), 1 << 20, "largest user data in bytes")
    forwarder: str = f.option("forwarder", _command(), "", "what runs as the forwarder: twistd forwarder if unset")
    agent: str = f.option("agent", _command(), "", "what runs as the agent: twistd agent if unset")
