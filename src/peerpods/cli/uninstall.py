"""`peerpods uninstall`: everything of ours out of a cluster, in the right order, within a time."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import attrs
import click

from peerpods.cli.reacting import fail, run_reactor
from peerpods.kube.objects import names

LEFT, USAGE, ENDED = 1, 2, 130
_WARNING = (
    "This ends every peer pod of the cluster with its VM, and removes all of peer pods{scope}. Pods that name the "
    "runtime class are refused from then on."
)


@click.command(short_help="Remove peer pods from a cluster, VMs first.")
@click.option("--namespace", default=names.INSTALL_NAMESPACE, show_default=True, help="where they are installed")
@click.option("--kubeconfig", default="", envvar="KUBECONFIG", help="in a cluster the pod's own account if unset")
@click.option("--kube-context", default="", help="its current one if unset")
@click.option(
    "--timeout", type=click.FloatRange(1, 3600), default=300.0, show_default=True, help="longest time in seconds"
)
@click.option("--force", is_flag=True, help="after that time take the finalizers off; names each VM that may be left")
@click.option("--configs-only", is_flag=True, help="leave what kustomize or Helm installed (Helm's hook does this)")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--json", "as_json", is_flag=True, help="the outcome as JSON; progress goes to standard error")
def uninstall(
    namespace: str,
    kubeconfig: str,
    kube_context: str,
    timeout: float,
    force: bool,
    configs_only: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove peer pods from a cluster: PeerPodConfigs and VMs first, then the controllers, CRDs and the namespace.

    Ends with 0 when all is gone, 1 when something is left (it says what, and the remedy), 2 for wrong usage.
    """
    from peerpods.errors import ConfigError, PeerPodError

    if not yes:
        if not sys.stdin.isatty():
            fail("nobody is there to be asked; say --yes", USAGE)
        scope = " but what kustomize or Helm installed" if configs_only else ""
        if not click.confirm(_WARNING.format(scope=scope) + " Go on?"):
            fail("nothing was done", LEFT)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", file=sys.stderr if as_json else sys.stdout, flush=True)

    try:
        outcome = run_reactor(
            lambda reactor: _work(
                reactor, (kubeconfig, kube_context), say, namespace=namespace, timeout=timeout, force=force,
                configs_only=configs_only,
            )
        )  # fmt: skip
    except ConfigError as error:
        fail(str(error), USAGE)
    except PeerPodError as error:
        fail(str(error), LEFT)
    except Exception as error:
        fail("ended before it was done; run it again to go on" if _cancelled(error) else repr(error), ENDED)
    else:
        _report(outcome, as_json, say)


def _cancelled(error: Exception) -> bool:
    from twisted.internet.defer import CancelledError

    return isinstance(error, CancelledError)


async def _work(reactor: Any, access: tuple[str, str], say: Any, **choices: Any) -> Any:
    from peerpods.cli.removal import Removal
    from peerpods.kube.client import KubeSettings, connect

    settings = KubeSettings(kubeconfig=access[0], context=access[1])
    kube = await connect(reactor, settings, component="uninstall")
    try:
        return await Removal(reactor, kube, say, **choices).run()
    finally:
        await kube.close()


def _report(outcome: Any, as_json: bool, say: Any) -> None:
    if as_json:
        print(json.dumps({"clean": outcome.clean, **attrs.asdict(outcome)}))
    for one in outcome.left:
        say(f"left: {one}")
    if outcome.clean:
        say("done, nothing is left")
        return
    for vm in outcome.vms:
        say(f"may be left: {vm}")
    if outcome.remedy:
        say(f"remedy: {outcome.remedy}")
    sys.exit(LEFT if outcome.left else 0)
