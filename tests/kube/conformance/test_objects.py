"""Objects: versions, generation, status, conflicts."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from peerpods.kube.objects import resources as r
from tests.kube.conformance.api import Api


def peer_pod(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"cloudProvider": "aws", **spec}}


@pytest_twisted.ensureDeferred
async def test_put_of_the_object_leaves_its_status(api: Api) -> None:
    made = await api.made(r.PEER_PODS, peer_pod())
    assert made.meta["generation"] == 1 and made.meta["uid"] and "status" not in made.body
    put = await api.put(r.PEER_PODS, {**made.body, "status": {"phase": "Running"}})
    assert put.code == 200
    assert "status" not in put.body
    assert put.meta["generation"] == 1
    assert put.version != made.version, "managedFields have changed"
