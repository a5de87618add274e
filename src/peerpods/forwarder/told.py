"""What the forwarder learns from the VM's files before it starts: apf.json, initdata, the image's kind."""

from __future__ import annotations

import os
import ssl

from peerpods.errors import ConfigError, Refused
from peerpods.pki.contexts import server_context
from peerpods.userdata.apf import MAX_APF, ApfConfig, parse_apf
from peerpods.userdata.initdata import MAX_TEXT, decode_initdata, read_initdata

OS_RELEASE = "/etc/os-release"
AGENT_MARK = "PEERPODS_AGENT"
"""Line of our images' os-release that names the agent inside; every other than "development" makes a release."""


def read_apf(path: str) -> ApfConfig:
    """apf.json at `path`.

    Raises:
        ConfigError: when it is not there, not readable or wrong.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_APF + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            setting="config",
            remedy="peerpods-userdata writes it from the VM's user data",
        ) from None
    return parse_apf(text)


def tls_context(apf: ApfConfig) -> ssl.SSLContext:
    """The TLS context for the one client that may connect.

    Raises:
        ConfigError: without a client certificate to expect, and without a key and certificate of our own.
    """
    for value, name in (
        (apf.client_ca, "tls-client-ca"),
        (apf.server_key, "tls-server-key"),
        (apf.server_cert, "tls-server-cert"),
    ):
        if not value.strip():
            raise ConfigError(
                f"apf.json: {name} is missing",
                setting="config",
                remedy="the forwarder serves nobody but the client it was told to expect; the adaptor names it",
            )
    return server_context(apf.server_cert, apf.server_key, apf.client_ca)


def policy_refusal(folder: str, os_release: str = OS_RELEASE) -> str:
    """Why SetPolicy must not pass in this VM; "" when it may, once.

    Args:
        folder: where the user data's files are.

    Raises:
        ConfigError: when there is initdata that cannot be read: what it says about the policy is then unknown.
    """
    path = os.path.join(folder, "initdata")
    if os.path.exists(path):
        try:
            with open(path, "rb") as file:
                data = read_initdata(decode_initdata(file.read(2 * MAX_TEXT).decode("ascii", "replace")))
        except (Refused, OSError) as error:
            raise ConfigError(f"{path}: {error}") from None
        if "policy.rego" in data.files:
            return "SetPolicy is refused: initdata brought this VM's policy (change policy.rego in the initdata)"
    facts = _facts(os_release)
    if facts.get(AGENT_MARK, "development") != "development" or facts.get("VARIANT_ID") == "release":
        return "SetPolicy is refused: in a release image only initdata brings a policy (put policy.rego into initdata)"
    return ""


def _facts(path: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            rows = [line.strip().partition("=") for line in file.read(65536).splitlines()]
    except OSError:
        return {}
    return {name: value.strip("\"'") for name, _, value in rows}
