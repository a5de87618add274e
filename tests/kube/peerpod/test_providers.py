"""Providers are made when first named, shared, made anew when their settings change, and never waited for in vain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.aio import spawn
from peerpods.clouds.memory.provider import MemoryProvider
from peerpods.clouds.memory.settings import MemorySettings
from peerpods.errors import CloudError, CloudFailure, ConfigError, DeadlineExceeded
from peerpods.kube.peerpod.configuration import Configuration, Exports, read_folder, unknown_provider
from peerpods.kube.peerpod.providers import HOLD, REMAKE, Cloud, Providers, is_unusable


class Made(MemoryProvider):
    stopped = False
    error: Exception | None = None
    hang = False

    async def start(self) -> None:
        if self.error is not None:
            raise self.error
        if self.hang:
            await Deferred()

    async def stop(self) -> None:
        self.stopped = True


class Maker:
    def __init__(self, configuration: Configuration | None = None, **options: Any) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.all: list[Made] = []
        self.settings: list[Any] = []
        self.error: Exception | None = None
        self.hang = False
        self.providers = Providers(self.clock, configuration or Configuration(), make=self.make, **options)

    def make(self, name: str, settings: Any, reactor: Any) -> Made:
        made = Made(MemorySettings(), reactor)
        made.error, made.hang = self.error, self.hang
        self.all.append(made)
        self.settings.append(settings)
        return made

    def use(self, work: Any = None, name: str = "memory") -> list[Any]:
        async def nothing(cloud: Cloud) -> Any:
            return cloud.provider

        out: list[Any] = []
        spawn(self.providers.use(name, work or nothing)).addBoth(lambda r: out.append(getattr(r, "value", r)))
        return out


def test_made_once_and_shared() -> None:
    maker = Maker()
    assert maker.use() == maker.use() == maker.all
    spawn(maker.providers.stop())
    assert maker.all[0].stopped
    assert isinstance(maker.use()[0], CloudError)


def test_no_such_provider_and_wrong_settings() -> None:
    maker = Maker(Configuration(environ={"LIBVIRT_CPU": "many"}))
    (unknown,) = maker.use(name="gcp")
    assert isinstance(unknown, ConfigError) and is_unusable(unknown)
    (wrong,) = maker.use(name="libvirt")
    assert isinstance(wrong, ConfigError) and "LIBVIRT_CPU" in str(wrong) and "'many'" in str(wrong)
    assert maker.use() == maker.all


def test_one_that_cannot_start_is_not_tried_at_every_turn() -> None:
    maker = Maker()
    maker.error = CloudError("no route")
    assert [str(e) for e in maker.use()] == ["no route"]
    maker.error = None
    assert [str(e) for e in maker.use()] == ["no route"] and len(maker.all) == 1
    maker.clock.advance(HOLD)
    assert maker.use() == [maker.all[1]]


def test_one_that_hangs_at_its_start() -> None:
    maker = Maker()
    maker.hang = True
    out = maker.use()
    maker.clock.advance(61)
    assert isinstance(out[0], DeadlineExceeded)


def test_changed_files_make_it_anew_and_calls_under_way_keep_the_old(tmp_path: Path) -> None:
    (tmp_path / "LIBVIRT_CPU").write_text("2\n")
    maker = Maker(Configuration(folder=str(tmp_path), environ={"LIBVIRT_CPU": "1"}))
    gate: Deferred[None] = Deferred()

    async def wait(cloud: Cloud) -> Any:
        await gate
        return cloud.provider

    slow = maker.use(wait, "libvirt")
    assert maker.settings[0].cpu == 2
    (tmp_path / "LIBVIRT_CPU").write_text("3")
    assert maker.use(name="libvirt") == [maker.all[1]] and maker.settings[1].cpu == 3
    assert not maker.all[0].stopped
    gate.callback(None)
    assert slow == [maker.all[0]] and maker.all[0].stopped and not maker.all[1].stopped
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("new")
    assert maker.use(name="libvirt") == [maker.all[2]], "credentials that only an SDK reads count too"


def test_a_provider_has_files_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "libvirt").mkdir()
    (tmp_path / "LIBVIRT_URI").write_text("qemu:///system")
    (tmp_path / "libvirt" / "LIBVIRT_URI").write_text("qemu+ssh://host/system")
    (tmp_path / "..data").mkdir()
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
    configuration = Configuration(folder=str(tmp_path))
    assert configuration.read("libvirt").settings.uri == "qemu+ssh://host/system"
    assert configuration.named() == ["libvirt"]
    assert read_folder(tmp_path) == {"LIBVIRT_URI": "qemu:///system"} and read_folder(tmp_path / "none") == {}


def test_sdks_find_the_files_in_the_environment(tmp_path: Path) -> None:
    environ = {"HOME": "/root", "AWS_REGION": "before"}
    maker = Maker(Configuration(folder=str(tmp_path)), exports=Exports(environ))
    (tmp_path / "AWS_REGION").write_text("after")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("one")
    (tmp_path / "not-a-variable").write_text("x")
    maker.use()
    assert environ == {"HOME": "/root", "AWS_REGION": "after", "AWS_SECRET_ACCESS_KEY": "one"}
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("two")
    (tmp_path / "AWS_REGION").unlink()
    maker.use()
    assert environ == {"HOME": "/root", "AWS_REGION": "before", "AWS_SECRET_ACCESS_KEY": "two"}


def test_tables_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "peerpods.toml"
    file.write_text('[provider.memory]\nguest = "refuses"\n[provider.libvirt]\nuri = "x:///y"\n')
    configuration = Configuration(path=str(file))
    assert configuration.named() == ["libvirt", "memory"]
    assert configuration.read("memory").settings.guest == "refuses"
    mark = configuration.read("memory").mark
    file.write_text('[provider.memory]\nguest = "silent"\n')
    assert configuration.read("memory").mark != mark
    file.write_text("nonsense")
    with pytest.raises(ConfigError, match="TOML"):
        configuration.read("memory")
    assert configuration.named() == []


def test_refused_credentials_are_read_again_but_not_at_every_turn() -> None:
    maker = Maker()

    async def denied(_cloud: Cloud) -> None:
        raise CloudError("AuthFailure", kind=CloudFailure.DENIED)

    assert is_unusable(maker.use(denied)[0])
    assert maker.use() == [maker.all[0]] and len(maker.all) == 1
    maker.clock.advance(REMAKE)
    assert maker.use() == [maker.all[1]] and maker.all[0].stopped
    maker.clock.advance(REMAKE)
    assert maker.use() == [maker.all[1]]


def test_a_cloud_that_hangs_holds_up_itself_only() -> None:
    maker = Maker(at_once=2)

    async def hang(_cloud: Cloud) -> None:
        await Deferred()

    for _ in range(5):
        maker.use(hang)
    assert maker.use() == []
    assert maker.use(name="netns") == [maker.all[1]]


def test_one_whose_making_is_broken() -> None:
    maker = Maker()
    maker.error = AttributeError("x")
    (error,) = maker.use()
    assert isinstance(error, CloudError) and "defect" in str(error)


def test_what_a_provider_must_not_raise_is_an_error_in_words() -> None:
    maker = Maker()

    async def broken() -> None:
        raise KeyError("x")

    async def work(cloud: Cloud) -> None:
        await cloud.call("delete", broken(), 5)

    (error,) = maker.use(work)
    assert isinstance(error, CloudError) and "defect" in str(error)


def test_what_the_credentials_files_hold_is_in_no_words(tmp_path: Path) -> None:
    """A cloud may quote what it was given; the words come into events and objects that users read."""
    (tmp_path / "CLOUD_TOKEN").write_text("s3cret-token\n")
    (tmp_path / "LIBVIRT_MIN_MEMORY").write_text("s3cret-size")
    wrong = Maker(Configuration(folder=str(tmp_path)))
    (error,) = wrong.use(name="libvirt")
    assert isinstance(error, ConfigError) and "LIBVIRT_MIN_MEMORY" in str(error) and "s3cret" not in str(error)

    async def quotes(cloud: Cloud) -> None:
        async def call() -> None:
            raise CloudError("401 for token s3cret-token", kind=CloudFailure.DENIED, remedy="mend s3cret-token")

        await cloud.call("list", call(), 5)

    async def breaks(cloud: Cloud) -> None:
        async def call() -> None:
            raise ValueError("s3cret-token")

        await cloud.call("list", call(), 5)

    maker = Maker(Configuration(folder=str(tmp_path)))
    for work in (quotes, breaks):
        (error,) = maker.use(work)
        assert isinstance(error, CloudError) and "(secret)" in str(error) and "s3cret" not in str(error)
    failing = Maker(Configuration(folder=str(tmp_path)))
    failing.error = CloudError("no login with s3cret-token", kind=CloudFailure.DENIED)
    (error,) = failing.use()
    assert str(error) == "no login with (secret)"


def test_words_for_an_unknown_provider() -> None:
    assert unknown_provider("memory", "shop") == ""
    assert "'libvirt'" in unknown_provider("libvrt", "shop") and "shop" in unknown_provider("libvrt", "shop")
    assert "CLOUD_PROVIDER" in unknown_provider("", "shop")
