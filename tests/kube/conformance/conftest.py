"""Fixtures of the admission half of the suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.cluster_pki import Authority
from tests.kube.conformance.api import Api
from tests.kube.conformance.hook import Hook, Installed


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the webhook's certificate."""
    return Authority(tmp_path_factory.mktemp("authority"), "webhook-ca")


@pytest.fixture(scope="session")
def _hook(authority: Authority) -> Iterator[Hook]:
    hook = Hook(authority.issue("hook", "hook", names=["localhost"], addresses=["127.0.0.1"]), authority.file)
    yield hook
    hook.close()


@pytest.fixture
def hook(_hook: Hook) -> Hook:
    """The scripted webhook, with nothing of earlier tests."""
    _hook.scripts.clear()
    _hook.calls.clear()
    return _hook


@pytest.fixture
def hooks(api: Api, hook: Hook) -> Iterator[Installed]:
    """Configurations that go with the test."""
    installed = Installed(api, hook)
    yield installed
    if api.cluster:
        installed.thd_remove()
