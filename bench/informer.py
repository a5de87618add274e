"""An informer with 10,000 pods: memory a pod, time of a list, changes a second; beside a plain list in memory.

    python bench/informer.py [--json FILE] [--pods N] [--changes N]

A server in a process of its own has pods of about 6 KB of JSON. Each way to hold them is a process of its own too: what
its memory grows by, divided by the pods. "informer" keeps what our services keep of a pod; "whole" keeps all of each;
"json" is one list without pages by urllib and json.loads, the least a program does that keeps a copy.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.lib.rig import rss_mib, table, verdict, write_json

REACH_KB = 25
TOP = Path(__file__).resolve().parent.parent


def kept(found):
    """What a service keeps of a pod."""
    meta, spec, status = found["metadata"], found["spec"], found["status"]
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "uid": meta["uid"],
        "deleting": "deletionTimestamp" in meta,
        "node": sys.intern(spec.get("nodeName", "")),
        "phase": sys.intern(status.get("phase", "")),
    }


def hold_plain(port, decode):
    """The whole list at once."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/pods", timeout=60) as answer:
        return decode(answer.read())["items"]


def child_plain(port, count, kind):
    """Memory and time of one list by json or msgspec."""
    import msgspec

    hold_plain(port, json.loads)[:0]
    gc.collect()
    decode = json.loads if kind == "json" else msgspec.json.decode
    before, began = rss_before(), time.perf_counter()
    items = hold_plain(port, decode)
    took = time.perf_counter() - began
    report(before, count, took, len(items))


def rss_before():
    """Anonymous memory now."""
    return rss_mib("self")[1]


def report(before, count, took, held, **more):
    """One line of JSON for the parent."""
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    grown = rss_mib("self")[1] - before
    print(
        json.dumps(
            {
                "grown_mib": round(grown, 1),
                "kb_a_pod": round(grown * 1024 / count, 2),
                "peak_mib": round(int(peak.split()[1]) / 1024, 1),
                "list_s": round(took, 2),
                "held": held,
                **more,
            }
        )
    )


def child_informer(port, count, changes, kind):
    """Memory and time of an informer."""
    from twisted.internet import asyncioreactor

    asyncioreactor.install()
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred

    from peerpods.kube.client import Informer, Kube
    from peerpods.kube.client.access import Access
    from peerpods.kube.client.session import Session
    from peerpods.kube.objects.resources import PODS

    access = Access(url=f"http://127.0.0.1:{port}")
    kube = Kube(reactor, Session(reactor, None, access, "bench"), "bench")
    seen = {"modified": 0, "longest": 0.0, "tick": time.perf_counter()}

    def on_change(change):
        if change.kind == "modified":
            seen["modified"] += 1

    def tick():
        now = time.perf_counter()
        seen["longest"] = max(seen["longest"], now - seen["tick"] - 0.001)
        seen["tick"] = now
        reactor.callLater(0.001, tick)

    async def run():
        await kube.request("GET", "/api/v1/pods", query=[("limit", "1")])
        gc.collect()
        before, began = rss_before(), time.perf_counter()
        seen["tick"] = began
        tick()
        more = {"shrink": kept} if kind == "informer" else {}
        informer = Informer(reactor, kube, PODS, on_change=on_change, **more)
        await informer.start()
        took = time.perf_counter() - began
        began = time.perf_counter()
        while seen["modified"] < changes:
            done = Deferred()
            reactor.callLater(0.005, done.callback, None)
            await done
        rate = changes / (time.perf_counter() - began)
        gc.collect()
        report(
            before,
            count,
            took,
            len(informer.store),
            changes_a_second=round(rate),
            longest_turn_ms=round(seen["longest"] * 1000, 1),
        )
        informer.stop()
        reactor.stop()

    def failed(failure):
        failure.printTraceback()
        reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(run()).addErrback(failed))
    reactor.run()


def main():
    """Run all ways; print a table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, port = options.child
        if kind in ("json", "msgspec"):
            child_plain(port, options.pods, kind)
        else:
            child_informer(port, options.pods, options.changes, kind)
        return
    numbers = ["--pods", str(options.pods), "--changes", str(options.changes)]
    server = subprocess.Popen(
        [sys.executable, "-m", "bench.lib.pods", str(options.pods), str(options.changes)],
        cwd=TOP,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        port, size = server.stdout.readline().split()
        rows = []
        for kind in ("informer", "whole", "json", "msgspec"):
            command = [sys.executable, __file__, "--child", kind, port, *numbers]
            said = subprocess.run(command, capture_output=True, text=True, timeout=300)
            if said.returncode or not said.stdout:
                raise SystemExit(f"{kind} failed: {said.stderr}")
            rows.append({"kept by": kind, **json.loads(said.stdout.splitlines()[-1])})
    finally:
        server.stdin.close()
        server.wait()
    print(f"{options.pods} pods of {size} bytes of JSON each")
    columns = ["kept by", "kb_a_pod", "grown_mib", "peak_mib", "list_s", "changes_a_second", "longest_turn_ms"]
    table(rows, columns)
    print()
    measured = rows[0]["kb_a_pod"]
    figures = [
        verdict(
            "informer memory a pod watched",
            measured,
            f"<= {REACH_KB}",
            good=measured <= REACH_KB,
            unit=" KB",
        ),
        verdict("list of all pods", rows[0]["list_s"], "<= 5", good=rows[0]["list_s"] <= 5, unit=" s"),
    ]
    write_json(options.json, {"pods": options.pods, "bytes": int(size), "rows": rows, "figures": figures})


if __name__ == "__main__":
    main()
