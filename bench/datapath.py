"""What relay and forwarder add to a call and to a stream, against the agent's own socket in the same run.

    python bench/datapath.py [--json FILE] [--calls N] [--seconds S] [--reactor epoll|asyncio]

Relay, forwarder, agent and load are separate processes. `rpc`: the next 128-byte call after each answer. `readers`:
each of N readers asks for the next 32 KiB of stdout after each answer.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench.lib.rig import Rig, Wire, table, verdict, write_json
from peerpods.protocols import agent_pb2, health_pb2

ID = "0123abcd" * 8
CHUNK = 32768


def rpc(path, calls):
    """Latencies in microseconds, sorted."""
    wire = Wire(path)
    payload = health_pb2.CheckRequest(service="x" * 126).SerializeToString()
    times = []
    clock = time.perf_counter
    for number in range(calls + 200):
        before = clock()
        wire.send("grpc.Health", "Check", payload, 30 * 10**9)
        wire.frames()
        if number >= 200:
            times.append((clock() - before) * 1e6)
    return sorted(times)


def readers(path, count, seconds):
    """Bytes read and seconds it took."""
    wire = Wire(path)
    requests = [agent_pb2.ReadStreamRequest(container_id=f"c{i}", len=CHUNK).SerializeToString() for i in range(count)]
    owner = {}
    total = 0
    started = time.perf_counter()
    end = started + seconds
    for index in range(count):
        owner[wire.send("grpc.AgentService", "ReadStdout", requests[index])] = index
    while owner:
        for frame in wire.frames():
            index = owner.pop(frame.stream)
            if len(frame.body) < CHUNK:
                raise RuntimeError(f"not the data: {frame.body[:200]!r}")
            total += CHUNK
            if time.perf_counter() < end:
                owner[wire.send("grpc.AgentService", "ReadStdout", requests[index])] = index
    return total, time.perf_counter() - started


def spent(rig, before):
    """CPU seconds of relay and forwarder since."""
    after = rig.costs()
    return {name: after[name] - before[name] for name in ("relay", "forwarder")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="")
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--reactor", default="epoll", choices=["epoll", "asyncio"])
    options = parser.parse_args()
    rows = []
    with Rig(options.reactor) as rig:
        through = rig.open(ID)
        rig.link(ID)
        p50 = {}
        for name, path in (("direct", rig.agent), ("through", through)):
            before = rig.costs()
            times = rpc(path, options.calls)
            cost = spent(rig, before)
            p50[name] = times[len(times) // 2]
            rows.append(
                {
                    "what": "rpc 128 B",
                    "path": name,
                    "p50_us": round(p50[name], 1),
                    "p99_us": round(times[len(times) * 99 // 100], 1),
                    **{f"{part}_cpu_us": round(value / options.calls * 1e6, 1) for part, value in cost.items()},
                }
            )
        for count in (1, 16):
            for name, path in (("direct", rig.agent), ("through", through)):
                before = rig.costs()
                total, seconds = readers(path, count, options.seconds)
                cost = spent(rig, before)
                rows.append(
                    {
                        "what": f"readers {count}",
                        "path": name,
                        "mb_per_s": round(total / seconds / 1e6, 1),
                        **{f"{part}_ms_per_mb": round(v * 1e3 / (total / 1e6), 3) for part, v in cost.items()},
                    }
                )
    columns = ["what", "path", "p50_us", "p99_us", "relay_cpu_us", "forwarder_cpu_us", "mb_per_s"]
    table(rows, [*columns, "relay_ms_per_mb", "forwarder_ms_per_mb"])
    added = p50["through"] - p50["direct"]
    through = {row["what"]: row for row in rows if row["path"] == "through"}
    many, single = (through[f"readers {count}"]["mb_per_s"] for count in (16, 1))
    print(f"\nreactor {options.reactor}")
    verdicts = [
        verdict("added to a call of 128 B, p50", round(added), "≤ 300", unit=" us", good=added <= 300),
        verdict("16 readers at once, sum", many, "≥ 300", unit=" MB/s", good=many >= 300),
        verdict("one reader", single, "≥ 80", unit=" MB/s", good=single >= 80),
    ]
    facts = {"bench": "datapath", "reactor": options.reactor, "added_p50_us": added}
    write_json(options.json, {**facts, "rows": rows, "verdicts": verdicts})


if __name__ == "__main__":
    main()
