"""The informer over sockets through all that an API server does to its clients, on the double."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor

from peerpods.kube.client import ApiError, Informer, Kube
from peerpods.kube.client.access import Access
from peerpods.kube.client.session import Session
from peerpods.kube.objects.resources import CONFIG_MAPS
from tests.kube.client.real import until
from tests.kube.client.scripted import Source
from tests.kube.client.test_real_informer import Shadow, shrink

ensure = pytest_twisted.ensureDeferred
NS = "ns"


class World:
    def __init__(self, double):
        self.double = double
        access = Access(url=double.url)
        self.kube = Kube(reactor, Session(reactor, Source(access), access, "t/1"), "t")
        self.shadow = Shadow()
        self.informer = Informer(reactor, self.kube, CONFIG_MAPS, namespace=NS, shrink=shrink, on_change=self.shadow)

    async def write(self, prefix, count=6):
        for number in range(count):
            name = f"{prefix}{number}"
            await self.kube.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"n": "0"}}, NS)
            if number % 3 == 0:
                await self.kube.delete(CONFIG_MAPS, name, NS)
            if number % 6 == 0:
                await self.kube.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"n": "2"}}, NS)

    async def agrees(self):
        listed, _ = await self.kube.list(CONFIG_MAPS, NS)
        truth = {f"{NS}/{each['metadata']['name']}": shrink(each) for each in listed}
        await until(lambda: dict(self.informer.store) == truth, 10)
        assert self.shadow.held == truth and self.shadow.wrong == []


@pytest_twisted.async_yield_fixture
async def world(double):
    from peerpods.kube.objects.resources import NAMESPACES

    double.seed(NAMESPACES, {"metadata": {"name": NS}})
    made = World(double)
    yield made
    made.informer.stop()
    await made.kube.close()


@pytest.mark.parametrize("trouble", ["none", "drop", "clean drop", "expire", "errors", "bookmark"])
@ensure
async def test_nothing_is_lost_or_doubled(world, trouble):
    await world.write("before")
    await world.informer.start()
    await world.agrees()
    for round_ in range(3):
        await world.write(f"r{round_}-")
        double = world.double
        if trouble == "drop":
            double.drop_watches()
        elif trouble == "clean drop":
            double.drop_watches(clean=True)
        elif trouble == "expire":
            double.expire()
            double.drop_watches()
        elif trouble == "errors":
            double.drop_watches()
            double.fail_next(3, 500)
        elif trouble == "bookmark":
            double.bookmark()
        await world.agrees()


@ensure
async def test_the_store_stays_while_the_server_fails(world):
    await world.write("a")
    await world.informer.start()
    held = dict(world.informer.store)
    world.double.fail_next(6, 503)
    world.double.drop_watches()
    await until(lambda: world.double.watches == 1)
    assert dict(world.informer.store) == held


@ensure
async def test_errors_of_the_double_read_as_those_of_a_server(world):
    with pytest.raises(ApiError) as caught:
        await world.kube.get(CONFIG_MAPS, "none", NS)
    assert caught.value.not_found and "none" in str(caught.value)
