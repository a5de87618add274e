"""The check of the cloud's settings: without the cloud, and with a provider that answers in every way."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from peerpods.clouds import registry
from peerpods.errors import CloudError, CloudFailure, ConfigError, LocalFailure
from peerpods.kube.peerpodconfig.credentials import Environment, Verdict, environment, judge
from peerpods.kube.peerpodconfig.spec import Config, parse_config
from peerpods.kube.peerpodconfig.verify import AGAIN_BAD, AGAIN_FINE, LIMIT, Verifier
from tests.kube.peerpodconfig.samples import stored

PASSWORD = "hunter2-hunter2"


def secret(uid: str = "s-uid", **data: str) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"uid": uid}, "data": encoded}


def config_map(uid: str = "c-uid", **data: str) -> dict[str, Any]:
    return {"metadata": {"uid": uid}, "data": data}


def env_of(config: Config | None = None, **data: str) -> Environment:
    return environment(config or parse_config(stored()), secret(KEY=PASSWORD), config_map(**data))


def test_config_map_and_secret_make_one_environment() -> None:
    env = environment(parse_config(stored()), secret(A="1", B="2"), config_map(B="3", CLOUD_PROVIDER="memory"))
    assert env.values == {"A": "1", "B": "3", "CLOUD_PROVIDER": "memory"}
    assert env.provider == "memory"
    assert env.secret_keys == {"A"}
    assert env.missing == ()
    chosen = environment(parse_config(stored(provider="libvirt")), None, config_map(CLOUD_PROVIDER="memory"))
    assert chosen.provider == "libvirt"
    assert chosen.missing == ("Secret peer-pods-secret",)


def test_values_that_are_no_text_are_passed_over() -> None:
    odd = {"metadata": {"uid": "u"}, "data": {"BIN": base64.b64encode(b"\xff\xfe").decode(), "BAD": "!!", "OK": "eA=="}}
    assert environment(parse_config(stored()), odd, None).values == {"OK": "x"}


def test_the_checksum_follows_the_values_and_tells_nothing() -> None:
    first = env_of(A="1").checksum
    assert first == env_of(A="1").checksum
    assert first != env_of(A="2").checksum
    assert env_of(A="12", B="3").checksum != env_of(A="1", B="23").checksum
    other = environment(parse_config(stored()), secret("other-uid", KEY=PASSWORD), config_map(A="1")).checksum
    assert other != first, "keyed: nobody can try passwords against it without reading the Secret's uid"
    assert environment(parse_config(stored()), None, None).checksum == ""


def test_secrets_are_in_no_representation() -> None:
    assert PASSWORD not in repr(env_of())


@pytest.mark.parametrize(
    ("data", "verdict", "words"),
    [
        ({}, Verdict.MISSING, "set CLOUD_PROVIDER in the ConfigMap peer-pods-cm of namespace peerpods-system"),
        ({"CLOUD_PROVIDER": "azur"}, Verdict.WRONG, "there is no provider 'azur' (choose one of"),
        ({"CLOUD_PROVIDER": "libvirt", "LIBVIRT_CPU": "many"}, Verdict.WRONG, "LIBVIRT_CPU: 'many' is wrong"),
        ({"CLOUD_PROVIDER": "netns"}, Verdict.ON_NODES, "works on the nodes themselves"),
        ({"CLOUD_PROVIDER": "libvirt", "LIBVIRT_URI": "qemu:///system"}, Verdict.ON_NODES, "on the nodes themselves"),
    ],
)
def test_what_is_known_without_the_cloud(data: dict[str, str], verdict: Verdict, words: str) -> None:
    found, settings = judge(parse_config(stored()), env_of(**data))
    assert found is not None
    assert (settings is None) == (verdict is not Verdict.ON_NODES)
    assert found.verdict is verdict
    assert words in found.words


def test_objects_that_are_missing_are_named_with_the_command_that_makes_them() -> None:
    config = parse_config(stored())
    found, _ = judge(config, environment(config, None, None))
    assert found is not None
    assert "kubectl -n peerpods-system create configmap peer-pods-cm" in found.words
    assert "kubectl -n peerpods-system create secret generic peer-pods-secret" in found.words


def test_a_wrong_value_out_of_the_secret_is_not_shown() -> None:
    config = parse_config(stored())
    env = environment(config, secret(LIBVIRT_CPU="ab"), config_map(CLOUD_PROVIDER="libvirt"))
    found, _ = judge(config, env)
    assert found is not None
    assert "LIBVIRT_CPU: (a secret value) is wrong" in found.words
    assert "'ab'" not in found.words


def test_a_remote_libvirt_is_asked() -> None:
    env = env_of(CLOUD_PROVIDER="libvirt", LIBVIRT_URI="qemu+ssh://root@host/system")
    found, settings = judge(parse_config(stored()), env)
    assert found is None
    assert settings.uri == "qemu+ssh://root@host/system"


class FakeProvider:
    """Answers as told; remembers what was done."""

    name = "memory"

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer
        self.done: list[str] = []

    async def start(self) -> None:
        self.done.append("start")

    async def verify(self) -> None:
        self.done.append("verify")
        result = self.answer()
        if isinstance(result, Deferred):
            await result

    async def stop(self) -> None:
        self.done.append("stop")


class Fixture:
    """A verifier with a clock."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.clock = Clock()
        self.made: list[FakeProvider] = []
        self.answers = 0
        self.answer = answer
        self.verifier = Verifier(self.clock, self._answered, self._make)
        self.config = parse_config(stored())

    def _answered(self) -> None:
        self.answers += 1

    def _make(self, name: str, settings: Any, reactor: Any) -> Any:
        self.made.append(FakeProvider(lambda: self.answer()))
        return self.made[-1]

    def look(self, **data: str) -> tuple[Verdict, str]:
        found = self.verifier.look(self.config, env_of(**{"CLOUD_PROVIDER": "memory", **data}))
        return found.verdict, found.words


def failing(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "verdict", "words"),
    [
        (lambda: None, Verdict.FINE, "accepts the settings"),
        (
            failing(ConfigError("the pool p has no volume v", setting="vol-name", remedy="upload it")),
            Verdict.REFUSED,
            "vol-name: the pool p has no volume v (upload it)",
        ),
        (failing(CloudError("no such key", kind=CloudFailure.DENIED)), Verdict.REFUSED, "no such key"),
        (failing(CloudError("no image ami-1", kind=CloudFailure.NOT_FOUND)), Verdict.REFUSED, "no image ami-1"),
        (failing(CloudError("no route", kind=CloudFailure.RETRYABLE)), Verdict.UNREACHABLE, "no route"),
        (failing(LocalFailure("no ssh")), Verdict.REFUSED, "no ssh"),
        (
            failing(CloudError(f"key {PASSWORD} unknown", kind=CloudFailure.DENIED)),
            Verdict.REFUSED,
            "key (secret) unknown",
        ),
    ],
)
def test_every_answer_of_a_cloud(answer: Callable[[], Any], verdict: Verdict, words: str) -> None:
    here = Fixture(answer)
    here.look()
    assert here.look() == (verdict, words) or (here.look()[0] is verdict and words in here.look()[1])
    assert here.made[0].done == ["start", "verify", "stop"]
    assert here.answers == 1
    assert len(here.made) == 1, "an answer is remembered"


def test_what_user_data_a_provider_takes_is_known_before_the_cloud_answers() -> None:
    here = Fixture(Deferred)
    assert here.verifier.max_user_data == 0
    here.look()
    assert here.verifier.max_user_data == 65536, "the provider memory's own"
    here.look(CLOUD_PROVIDER="libvirt", LIBVIRT_URI="qemu:///system")
    assert here.verifier.max_user_data == 1 << 20
    here.look(CLOUD_PROVIDER="libvirt", LIBVIRT_CPU="many")
    assert here.verifier.max_user_data == 1 << 20, "wrong settings do not roll the webhook"


def test_a_provider_that_cannot_even_be_made_says_nothing_of_itself() -> None:
    def broken(*_: Any) -> int:
        raise ZeroDivisionError(PASSWORD)

    verifier = Verifier(Clock(), lambda: None, lambda *_: FakeProvider(Deferred), broken)
    assert verifier.look(parse_config(stored()), env_of(CLOUD_PROVIDER="memory")).verdict is Verdict.PENDING
    assert verifier.max_user_data == 0


def test_a_cloud_that_says_nothing_is_waited_for_half_a_minute() -> None:
    here = Fixture(Deferred)
    assert here.look()[0] is Verdict.PENDING
    here.clock.advance(LIMIT - 1)
    assert here.look()[0] is Verdict.PENDING
    here.clock.advance(2)
    assert here.look()[0] is Verdict.UNREACHABLE
    assert here.made[0].done[-1] == "stop"
    assert len(here.made) == 1


def test_an_answer_is_asked_for_again_after_a_time_and_at_once_for_other_settings() -> None:
    here = Fixture(lambda: None)
    here.look()
    here.clock.advance(AGAIN_FINE - 1)
    here.look()
    assert len(here.made) == 1
    here.clock.advance(2)
    assert here.look()[0] is Verdict.FINE, "the old answer stands until the new one comes"
    assert len(here.made) == 2
    here.answer = failing(CloudError("gone", kind=CloudFailure.NOT_FOUND))
    here.look(VXLAN_PORT="4790")
    assert len(here.made) == 3
    assert here.look(VXLAN_PORT="4790")[0] is Verdict.REFUSED
    here.clock.advance(AGAIN_BAD + 1)
    here.look(VXLAN_PORT="4790")
    assert len(here.made) == 4


def test_a_fault_of_the_provider_itself_is_said_without_its_words() -> None:
    here = Fixture(failing(ZeroDivisionError(PASSWORD)))
    here.look()
    verdict, words = here.look()
    assert verdict is Verdict.UNREACHABLE
    assert "ZeroDivisionError" in words
    assert PASSWORD not in words


def test_stopping_ends_a_check_that_runs() -> None:
    here = Fixture(Deferred)
    here.look()
    done = Deferred.fromCoroutine(here.verifier.stop())
    assert done.called
    assert here.made[0].done[-1] == "stop"
    assert here.answers == 0
    assert here.clock.getDelayedCalls() == []


def test_nothing_gets_into_our_own_environment() -> None:
    before = dict(os.environ)
    here = Fixture(lambda: None)
    here.look(SOMETHING="else")
    assert dict(os.environ) == before
    assert "memory" in registry.names()
