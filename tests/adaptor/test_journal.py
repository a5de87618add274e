"""The journal on a real disk: durable, all or nothing, clear in its errors."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat

import attrs
import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from peerpods.adaptor.journal import FILE, GONE_KEPT, Journal, read_offline
from peerpods.adaptor.sandbox import Sandbox, Secrets
from peerpods.errors import LocalFailure
from peerpods.model import Instance, Phase, PodNetwork, Route, SandboxId

SECRET = Secrets(keys='{"server_key": "PRIVATE-MARKER"}', initdata="INITDATA-MARKER")


def at_once(function):
    try:
        return succeed(function())
    except Exception:
        d: Deferred = Deferred()
        d.errback(Failure())
        return d


def sandbox(name: str = "abcd", **changes) -> Sandbox:
    network = PodNetwork(
        interface="eth0",
        mac="02:00:00:00:00:01",
        mtu=1500,
        addresses=("10.0.0.2/24", "fd00::2/64"),
        routes=(Route(dst="0.0.0.0/0", gateway="10.0.0.1"),),
        node_address="192.0.2.1",
    )
    vm = Instance(id="i-1", name="podvm-web", addresses=("192.0.2.7",), tags=(("a", "b"),))
    facts = {
        "id": SandboxId(name),
        "digest": "d",
        "pod": "web",
        "namespace": "lab",
        "netns": "/run/netns/x",
        "agent_socket": f"/run/peerpod/pods/{name}/agent.ttrpc",
        "server_name": "podvm-web-abcd",
        "network": network,
        "instance": vm,
        "vni": 555000,
        "phases": (("launch", 12.5),),
    }
    return Sandbox(**{**facts, **changes}).moved(Phase.RUNNING, 1.5, "why")


def result(d):
    out: list = []
    d.addBoth(out.append)
    assert out, "not done"
    if isinstance(out[0], Failure):
        out[0].raiseException()
    return out[0]


def test_a_record_is_there_after_a_crash(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    result(journal.write(sandbox(), SECRET))
    # no close: the process died
    again = Journal.open(str(tmp_path), at_once)
    assert again.load() == [sandbox()]
    assert result(again.secrets(SandboxId("abcd"))) == SECRET


def test_files_are_for_root_only_and_secrets_leave_with_the_sandbox(tmp_path):
    state = tmp_path / "state"
    journal = Journal.open(str(state), at_once)
    result(journal.write(sandbox(), SECRET))
    assert stat.S_IMODE(os.stat(state).st_mode) == 0o700
    for name in os.listdir(state):
        assert stat.S_IMODE(os.stat(state / name).st_mode) == 0o600, name
    assert "MARKER" not in repr(SECRET)
    result(journal.write(sandbox().moved(Phase.GONE, 2.0)))
    with pytest.raises(LocalFailure, match="no keys"):
        result(journal.secrets(SandboxId("abcd")))
    result(journal.close())
    assert b"MARKER" not in (state / FILE).read_bytes()


def test_offline_reading_beside_a_living_writer(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    result(journal.write(sandbox(), SECRET))
    assert read_offline(str(tmp_path)) == [sandbox()]
    result(journal.write(sandbox("efgh"), SECRET))
    assert len(read_offline(str(tmp_path))) == 2
    with pytest.raises(LocalFailure, match="no journal"):
        read_offline(str(tmp_path / "other"))


def test_ended_sandboxes_are_kept_up_to_a_bound(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    result(journal.write(sandbox("live")))
    for number in range(GONE_KEPT + 5):
        result(journal.write(sandbox(f"s{number}").moved(Phase.GONE, float(number))))
    names = {record.id for record in journal.load()}
    assert len(names) == GONE_KEPT + 1
    assert "live" in names
    assert "s4" not in names


def test_a_full_disk_refuses_and_loses_nothing(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    result(journal.write(sandbox(), SECRET))
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count={pages}")  # what SQLite answers to ENOSPC
    big = attrs.evolve(sandbox("big"), last_error="x" * 100_000)
    with pytest.raises(LocalFailure, match=r"journal .* cannot be written.*full.*make room"):
        result(journal.write(big, SECRET))
    assert journal.load() == [sandbox()]
    journal._database.execute("PRAGMA max_page_count=100000")
    result(journal.write(big, SECRET))
    assert len(journal.load()) == 2


@pytest.mark.root
def test_a_really_full_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    import subprocess

    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], check=True)
    try:
        journal = Journal.open(str(place), at_once)
        result(journal.write(sandbox(), SECRET))
        (place / "filler").write_bytes(b"")
        with open(place / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(b"x" * 4096)
            except OSError:
                pass
        with pytest.raises(LocalFailure, match="cannot be written"):
            result(journal.write(attrs.evolve(sandbox("big"), last_error="x" * 50_000), SECRET))
        os.unlink(place / "filler")
        result(journal.write(sandbox("later"), SECRET))
        assert {record.id for record in journal.load()} == {"abcd", "later"}
        result(journal.close())
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_no_permission_is_one_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LocalFailure, match=r"the journal .* cannot be opened"):
        Journal.open(str(blocked / "state"), at_once)


def test_a_read_only_journal_refuses_writes(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    result(journal.write(sandbox(), SECRET))
    journal._database.execute("PRAGMA query_only=ON")
    with pytest.raises(LocalFailure, match="let the adaptor's user write"):
        result(journal.write(sandbox("other"), SECRET))
    assert journal.load() == [sandbox()]


def test_torn_at_any_place_is_recovered_or_refused(tmp_path):
    whole = tmp_path / "whole"
    journal = Journal.open(str(whole), at_once)
    for number in range(20):
        result(journal.write(sandbox(f"s{number}"), SECRET))
    result(journal.close())
    body = (whole / FILE).read_bytes()
    expected = {f"s{number}" for number in range(20)}
    refused = 0
    for cut in [0, 1, 15, 16, 99, 100, 511, *range(512, len(body), 1024), len(body) - 1]:
        place = tmp_path / "torn"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / FILE).write_bytes(body[:cut])
        try:
            torn = Journal.open(str(place), at_once)
        except LocalFailure as error:
            assert "journal" in str(error)
            refused += 1
            continue
        try:
            assert {record.id for record in torn.load()} == expected, cut
        except LocalFailure:
            refused += 1
        result(torn.close())
    assert refused > 10


def test_a_torn_write_ahead_log_gives_the_records_before(tmp_path):
    whole = tmp_path / "whole"
    journal = Journal.open(str(whole), at_once)
    for number in range(3):
        result(journal.write(sandbox(f"s{number}"), SECRET))
    log = (whole / f"{FILE}-wal").read_bytes()
    seen = set()
    for cut in range(0, len(log), 509):
        place = tmp_path / "torn"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copy(whole / FILE, place / FILE)
        (place / f"{FILE}-wal").write_bytes(log[:cut])
        torn = Journal.open(str(place), at_once)
        names = [record.id for record in torn.load()]
        assert names == [f"s{number}" for number in range(len(names))]
        seen.add(len(names))
        result(torn.close())
    assert seen >= {0, 1, 2}


def test_an_unreadable_record_is_named(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    result(journal.write(sandbox(), SECRET))
    journal._database.execute("UPDATE sandboxes SET body = '{\"id\": 7}'")
    with pytest.raises(LocalFailure, match="sandbox abcd"):
        journal.load()


def test_a_later_version_is_refused(tmp_path):
    result(Journal.open(str(tmp_path), at_once).close())
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(LocalFailure, match="version 99"):
        Journal.open(str(tmp_path), at_once)


def test_writes_that_arrive_together_share_a_transaction_in_order(tmp_path):
    waiting: list = []

    def later(function):
        d: Deferred = Deferred()
        waiting.append((function, d))
        return d

    def turn():
        function, d = waiting.pop(0)
        d.callback(function())

    journal = Journal.open(str(tmp_path), later)
    done: list = []
    for number in range(10):
        journal.write(sandbox("same", last_error=str(number))).addCallback(lambda _, n=number: done.append(n))
    turn()
    assert done == [0]
    assert len(waiting) == 1
    turn()
    assert done == list(range(10))
    assert journal.load()[0].last_error == "9"


def test_one_record_that_does_not_fit_is_not_anothers_fault(tmp_path):
    held: list = []

    def first_later(function):
        if not held:
            d: Deferred = Deferred()
            held.append((function, d))
            return d
        return at_once(function)

    journal = Journal.open(str(tmp_path), first_later)
    outcomes: dict = {}
    for record in (sandbox("a"), attrs.evolve(sandbox("b"), last_error="x" * 100_000), sandbox("c")):
        journal.write(record).addBoth(lambda r, n=record.id: outcomes.__setitem__(n, r))
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count={pages + 2}")
    function, d = held[0]
    d.callback(function())
    assert outcomes["a"] is None
    assert isinstance(outcomes["b"], Failure)
    assert outcomes["c"] is None


@pytest_twisted.ensureDeferred
async def test_the_writer_thread_does_not_block_the_reactor(tmp_path):
    from twisted.internet import reactor
    from twisted.internet.threads import deferToThreadPool
    from twisted.python.threadpool import ThreadPool

    pool = ThreadPool(1, 1, "journal")
    pool.start()
    try:
        journal = Journal.open(str(tmp_path), lambda f: deferToThreadPool(reactor, pool, f))
        waits = [journal.write(sandbox(f"s{n}"), SECRET) for n in range(50)]
        for wait in waits:
            await wait
        assert journal.size() > 0
        assert await journal.secrets(SandboxId("s7")) == SECRET
        await journal.close()
    finally:
        pool.stop()
    assert len(read_offline(str(tmp_path))) == 50


def test_a_journal_of_the_first_version_is_taken_over(tmp_path):
    old = sqlite3.connect(tmp_path / FILE)
    old.executescript(
        "CREATE TABLE sandboxes (id TEXT PRIMARY KEY, gone INTEGER NOT NULL, changed REAL NOT NULL,"
        " body BLOB NOT NULL);"
        "CREATE TABLE secrets (id TEXT PRIMARY KEY REFERENCES sandboxes ON DELETE CASCADE, keys TEXT NOT NULL,"
        " initdata TEXT NOT NULL); PRAGMA user_version=1;"
    )
    fields = msgspec.to_builtins(sandbox())
    del fields["pod_uid"]  # as records were written before there was one
    body = msgspec.json.encode(fields)
    old.execute("INSERT INTO sandboxes VALUES ('abcd', 0, 1.5, ?)", (body,))
    old.execute("INSERT INTO secrets VALUES ('abcd', 'KEYS', 'INIT')")
    old.commit()
    old.close()
    for _ in range(2):
        journal = Journal.open(str(tmp_path), at_once)
        (record,) = journal.load()
        assert record == sandbox()
        assert result(journal.secrets(record.id)) == Secrets(keys="KEYS", initdata="INIT")
        result(journal.close())


def test_pull_credentials_are_kept_with_the_secrets_and_go_with_them(tmp_path):
    journal = Journal.open(str(tmp_path), at_once)
    secret = Secrets(keys="k", auth_json='{"auths":"PULL-MARKER"}')
    result(journal.write(sandbox(), secret))
    assert result(journal.secrets(SandboxId("abcd"))) == secret
    assert "PULL-MARKER" not in repr(secret)
    result(journal.write(sandbox().moved(Phase.GONE, 9.0)))
    result(journal.close())
    assert b"PULL-MARKER" not in (tmp_path / FILE).read_bytes()
