"""The durable journal: one SQLite database in the state folder, mode 0600 (docs/decisions/0001-journal.md).

A write is done when its transaction is on disk (WAL, synchronous=FULL). One thread writes; what arrives while it is
busy goes into its next transaction together, so 200 starts at once cost a few fsyncs, not 200 each. A sandbox's keys,
initdata and pull credentials lie in a table of their own and are overwritten with zeros when they are deleted.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import attrs
import msgspec
from twisted.internet.defer import Deferred

from peerpods.adaptor.sandbox import Sandbox, Secrets
from peerpods.errors import LocalFailure
from peerpods.model import Phase, SandboxId

T = TypeVar("T")
Defer = Callable[[Callable[[], Any]], Deferred[Any]]
"""Runs a function in the writer thread (or at once, in tests) and gives its result."""

FILE = "journal.db"
VERSION = 2
GONE_KEPT = 256
"""Ended sandboxes that `peerpods inspect` still finds; older ones are forgotten."""
PAGE_LIMIT = 1 << 20
"""4 GiB at SQLite's page size of 4096 bytes: no fault may fill the disk."""
_SCHEMA = """
CREATE TABLE sandboxes (id TEXT PRIMARY KEY, gone INTEGER NOT NULL, changed REAL NOT NULL, body BLOB NOT NULL);
CREATE TABLE secrets (
  id TEXT PRIMARY KEY REFERENCES sandboxes ON DELETE CASCADE, keys TEXT NOT NULL, initdata TEXT NOT NULL,
  auth TEXT NOT NULL DEFAULT '');
"""
_UPGRADES = {1: "ALTER TABLE secrets ADD COLUMN auth TEXT NOT NULL DEFAULT ''"}
"""What makes a journal of this version one of the next."""


@attrs.frozen
class _Write:
    sandbox: Sandbox
    secrets: Secrets | None
    done: Deferred[None]


def _failure(action: str, path: Path, error: BaseException) -> LocalFailure:
    text = str(error)
    if isinstance(error, sqlite3.OperationalError) and "full" in text:
        remedy = f"make room on the file system of {path.parent}"
    elif isinstance(error, PermissionError) or "readonly" in text or "unable to open" in text:
        remedy = f"let the adaptor's user write in {path.parent}"
    elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        remedy = "move it aside; instances that it listed are then deleted by their tags"
    else:
        remedy = f"look at the disk under {path.parent}"
    return LocalFailure(f"the journal {path} cannot be {action}: {text}", remedy=remedy)


class Journal:
    """The records of one node. Open it with `Journal.open`; all methods are called on the reactor thread."""

    def __init__(self, path: Path, database: sqlite3.Connection, defer: Defer) -> None:
        self.path = path
        self._database = database
        self._defer = defer
        self._waiting: list[_Write] = []
        self._busy = False
        self._closed = False

    @classmethod
    def open(cls, state_dir: str, defer: Defer) -> Journal:
        """Open or make the journal. Blocks shortly: called once, at start.

        Raises:
            LocalFailure: no permission, disk full, torn, or written by a later version.
        """
        path = Path(state_dir) / FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not path.exists():
                _make(path)
            database = _connect(f"file:{path}?mode=rw")
        except (OSError, sqlite3.Error) as error:
            raise _failure("opened", path, error) from error
        try:
            version = _check(database, path)
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            _upgrade(database, version)
            database.execute("PRAGMA secure_delete=ON")
            database.execute("PRAGMA foreign_keys=ON")
            database.execute(f"PRAGMA max_page_count={PAGE_LIMIT}")
        except (OSError, sqlite3.Error) as error:
            database.close()
            raise _failure("read", path, error) from error
        except LocalFailure:
            database.close()
            raise
        return cls(path, database, defer)

    def load(self) -> list[Sandbox]:
        """All records, oldest first. Blocks: called once, at start.

        Raises:
            LocalFailure: naming the record that cannot be read.
        """
        return _load(self._database, self.path)

    def write(self, sandbox: Sandbox, secrets: Secrets | None = None) -> Deferred[None]:
        """Put a record on disk; fires when it is there.

        Args:
            sandbox: the record; with phase `gone` its secrets are deleted in the same transaction.
            secrets: given at the first write only.

        The Deferred fails with LocalFailure, and then the record on disk is the one before.
        """
        done: Deferred[None] = Deferred()
        self._waiting.append(_Write(sandbox, secrets, done))
        self._flush()
        return done

    def secrets(self, sandbox: SandboxId) -> Deferred[Secrets]:
        """Read a sandbox's secrets. Fails with LocalFailure when there are none."""

        query = "SELECT keys, initdata, auth FROM secrets WHERE id = ?"

        def _thd_read() -> Secrets:
            try:
                row = self._database.execute(query, (sandbox,)).fetchone()
            except sqlite3.Error as error:
                raise _failure("read", self.path, error) from error
            if row is None:
                raise LocalFailure(f"the journal {self.path} has no keys of sandbox {sandbox}", sandbox=sandbox)
            return Secrets(keys=row[0], initdata=row[1], auth_json=row[2])

        return self._defer(_thd_read)

    def size(self) -> int:
        """Bytes on disk, write-ahead log included."""
        total = 0
        for suffix in ("", "-wal"):
            try:
                total += Path(f"{self.path}{suffix}").stat().st_size
            except FileNotFoundError:
                continue
        return total

    def close(self) -> Deferred[None]:
        """Finish the writes under way and let go of the file. Idempotent."""
        if self._closed:
            return self._defer(lambda: None)
        self._closed = True
        return self._defer(self._database.close)

    def _flush(self) -> None:
        if self._busy or not self._waiting:
            return
        batch, self._waiting = self._waiting, []
        self._busy = True
        self._defer(lambda: self._thd_commit(batch)).addCallbacks(
            lambda _: self._settle(batch, None), lambda failure: self._settle(batch, failure.value)
        )

    def _settle(self, batch: list[_Write], error: BaseException | None) -> None:
        self._busy = False
        if error is not None and len(batch) > 1:
            # One record that cannot be written (too large for what is left of the disk) is not another's fault.
            self._one_by_one(batch)
            return
        for write in batch:
            if error is None:
                write.done.callback(None)
            else:
                write.done.errback(error)
        self._flush()

    def _one_by_one(self, batch: list[_Write]) -> None:
        if not batch:
            self._flush()
            return
        self._busy = True
        head, rest = batch[0], batch[1:]

        def settle(error: BaseException | None) -> None:
            self._busy = False
            if error is None:
                head.done.callback(None)
            else:
                head.done.errback(error)
            self._one_by_one(rest)

        self._defer(lambda: self._thd_commit([head])).addCallbacks(
            lambda _: settle(None), lambda failure: settle(failure.value)
        )

    def _thd_commit(self, batch: list[_Write]) -> None:
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            for write in batch:
                _put(database, write.sandbox, write.secrets)
            database.execute(
                "DELETE FROM sandboxes WHERE gone AND id NOT IN"
                " (SELECT id FROM sandboxes WHERE gone ORDER BY changed DESC LIMIT ?)",
                (GONE_KEPT,),
            )
            database.execute("COMMIT")
        except sqlite3.Error as error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise _failure("written", self.path, error) from error


def _put(database: sqlite3.Connection, sandbox: Sandbox, secrets: Secrets | None) -> None:
    gone = sandbox.phase is Phase.GONE
    database.execute(
        "INSERT INTO sandboxes VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " gone = excluded.gone, changed = excluded.changed, body = excluded.body",
        (sandbox.id, gone, sandbox.changed_at, msgspec.json.encode(sandbox)),
    )
    if secrets is not None:
        database.execute(
            "INSERT OR REPLACE INTO secrets (id, keys, initdata, auth) VALUES (?, ?, ?, ?)",
            (sandbox.id, secrets.keys, secrets.initdata, secrets.auth_json),
        )
    if gone:
        database.execute("DELETE FROM secrets WHERE id = ?", (sandbox.id,))


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=5)


def _make(path: Path) -> None:
    """Make an empty journal under another name first: a file of that name is whole, or torn, never half made."""
    fresh = path.with_name(f".{FILE}.new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with closing(_connect(f"file:{fresh}?mode=rw")) as database:
        database.executescript(_SCHEMA)
        database.execute(f"PRAGMA user_version={VERSION}")
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(database: sqlite3.Connection, path: Path) -> int:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise LocalFailure(
            f"the journal {path} has version {version}, this adaptor reads up to {VERSION}",
            remedy="run the later adaptor",
        )
    if version != VERSION and version not in _UPGRADES:
        raise LocalFailure(
            f"the journal {path} is torn: it has no version",
            remedy="move it aside; instances that it listed are then deleted by their tags",
        )
    verdict = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise LocalFailure(
            f"the journal {path} is torn: {verdict}",
            remedy="move it aside; instances that it listed are then deleted by their tags",
        )
    return int(version)


def _upgrade(database: sqlite3.Connection, version: int) -> None:
    """Bring an earlier version's journal up, each step whole or not at all."""
    while version < VERSION:
        database.executescript(f"BEGIN IMMEDIATE; {_UPGRADES[version]}; PRAGMA user_version={version + 1}; COMMIT")
        version += 1


def _load(database: sqlite3.Connection, path: Path) -> list[Sandbox]:
    found: list[Sandbox] = []
    try:
        for key, body in database.execute("SELECT id, body FROM sandboxes ORDER BY rowid"):
            try:
                found.append(msgspec.json.decode(body, type=Sandbox))
            except (msgspec.DecodeError, TypeError) as error:
                raise LocalFailure(
                    f"the journal {path} holds a record of sandbox {key} that cannot be read: {error}",
                    sandbox=str(key),
                    remedy="run the version that wrote it, or move the journal aside",
                ) from error
    except sqlite3.Error as error:
        raise _failure("read", path, error) from error
    return found


def read_offline(state_dir: str) -> list[Sandbox]:
    """The records without an adaptor: what `peerpods ps` shows when nobody answers. Reads no secrets.

    Raises:
        LocalFailure: when there is no journal, or it cannot be read.
    """
    path = Path(state_dir) / FILE
    if not path.exists():
        raise LocalFailure(f"there is no journal {path}", remedy="name the adaptor's state folder")
    try:
        with closing(_connect(f"file:{path}?mode=ro")) as database:
            return _load(database, path)
    except sqlite3.Error as error:
        raise _failure("read", path, error) from error
