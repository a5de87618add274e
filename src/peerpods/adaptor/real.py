"""The ports of `ports.py` on the real rooms: podnet, pki, userdata, the folders below pods-dir."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from peerpods.adaptor.ports import RelayKeys
from peerpods.adaptor.sandbox import Sandbox, Secrets
from peerpods.model import PodNetwork, SandboxId, Tunnel


class RealNetwork:
    """`NetworkPort` by pyroute2."""

    def __init__(self, *, host_interface: str, vxlan_port: int, vxlan_min_id: int) -> None:
        self._host_interface = host_interface
        self._port = vxlan_port
        self._min = vxlan_min_id

    async def inspect(self, netns: str) -> PodNetwork:
        from peerpods import podnet

        return await podnet.inspect(netns, host_interface=self._host_interface)

    async def choose_vni(self, used: Collection[int]) -> int:
        from peerpods import podnet

        return await podnet.choose_vni(used, self._min, port=self._port)

    def exists(self, netns: str) -> bool:
        from peerpods import podnet

        return podnet.netns_exists(netns)

    def tunnel(self, sandbox: Sandbox) -> Tunnel | None:
        from peerpods import podnet

        if sandbox.network is None or sandbox.instance is None or not sandbox.instance.addresses:
            return None
        addresses = sandbox.instance.addresses
        version = ip_address(sandbox.network.node_address).version
        remote = next((one for one in addresses if ip_address(one).version == version), addresses[0])
        return podnet.tunnel_for(
            sandbox.id,
            sandbox.network,
            sandbox.netns,
            remote,
            sandbox.vni,
            self._port,
        )

    async def set_up(self, tunnel: Tunnel) -> None:
        from peerpods import podnet

        await podnet.setup_tunnel(tunnel)

    async def tear_down(self, tunnel: Tunnel) -> None:
        from peerpods import podnet

        await podnet.teardown_tunnel(tunnel)


class RealKeys:
    """`KeyPort` by `pki`."""

    def issue(self, server_name: str) -> str:
        from peerpods.pki.issue import issue

        return issue(server_name, datetime.now(UTC)).to_json()

    def relay_keys(self, keys: str) -> RelayKeys:
        from peerpods.pki.issue import SandboxKeys

        read = SandboxKeys.from_json(keys)
        return RelayKeys(
            server_name=read.server_name,
            server_ca=read.server_ca,
            client_cert=read.client_cert,
            client_key=read.client_key,
        )


class RealUserData:
    """`UserDataPort` by `userdata`.

    Args:
        auth_json, registries_json: give the text of the file of that name, or None; read for each VM, so that
            renewed credentials need no restart.
    """

    def __init__(
        self,
        *,
        vxlan_port: int,
        auth_json: Callable[[], str | None] = lambda: None,
        registries_json: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._port = vxlan_port
        self._auth = auth_json
        self._registries = registries_json

    def compose(self, sandbox: Sandbox, secrets: Secrets) -> bytes:
        from peerpods import userdata
        from peerpods.pki.issue import SandboxKeys
        from peerpods.userdata.apf import ApfConfig

        keys = SandboxKeys.from_json(secrets.keys)
        assert sandbox.network is not None
        auth = self._auth()
        if secrets.auth_json:
            from peerpods.kube.objects.pullsecret import merge_texts

            auth = merge_texts(secrets.auth_json, auth)
        apf = ApfConfig(
            pod_name=sandbox.pod,
            pod_namespace=sandbox.namespace,
            server_key=keys.server_key,
            server_cert=keys.server_cert,
            client_ca=keys.client_cert,
            network=sandbox.network,
            vxlan_port=self._port,
            vxlan_id=sandbox.vni,
            tunnel="vxlan",
        )
        return userdata.document(
            apf,
            auth_json=auth,
            registries_json=self._registries(),
            initdata_toml=secrets.initdata or None,
        )


class RealFolders:
    """`Folders` on disk."""

    def __init__(self, pods_dir: str) -> None:
        self._root = Path(pods_dir)

    def remove(self, sandbox: SandboxId) -> None:
        try:
            shutil.rmtree(self._root / sandbox)
        except FileNotFoundError:
            return
