"""What a VM is told at birth: one `#cloud-config` document with nothing but files of a closed list.

The node composes it, a provider carries its bytes, `peerpods-userdata` reads it back in the VM. The reader starts in
every VM before anything else, so this package imports nothing but the standard library until it must.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peerpods.userdata.cloud_config import (
    ALLOWED_PATHS,
    APF_JSON,
    AUTH_JSON,
    INITDATA,
    MAX_DOCUMENT,
    REGISTRIES_JSON,
    compose,
    parse,
)

if TYPE_CHECKING:
    from peerpods.userdata.apf import ApfConfig

__all__ = ["ALLOWED_PATHS", "MAX_DOCUMENT", "compose", "document", "parse"]


def document(
    apf: ApfConfig,
    *,
    auth_json: str | None = None,
    registries_json: str | None = None,
    initdata_toml: str | None = None,
) -> bytes:
    """The whole document for one sandbox; equal inputs give equal bytes.

    Args:
        apf: what the forwarder must know.
        auth_json: registry credentials, a JSON object (containers-auth.json).
        registries_json: registry authorities and plain-http hosts, a JSON object.
        initdata_toml: initdata as text; it travels as base64(gzip).

    Returns:
        UTF-8 bytes, at most MAX_DOCUMENT. A provider has a smaller limit of its own and checks it.

    Raises:
        Refused: when one of the texts is not what it should be, or the whole is too large.
    """
    from peerpods.userdata.initdata import encode_initdata, read_initdata
    from peerpods.userdata.jsontext import check_object

    files: dict[str, str | bytes] = {APF_JSON: apf.to_json()}
    if auth_json:
        files[AUTH_JSON] = check_object(auth_json, "auth-json")
    if registries_json:
        files[REGISTRIES_JSON] = check_object(registries_json, "registries-json")
    if initdata_toml:
        read_initdata(initdata_toml)
        files[INITDATA] = encode_initdata(initdata_toml)
    return compose(files)
