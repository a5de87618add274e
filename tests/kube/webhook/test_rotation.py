"""Self-managed certificates: the decisions as a table, and simulated years in which no admission fails."""

import base64
import random
from datetime import UTC, datetime, timedelta

import attrs
import pytest

from peerpods.kube.webhook import rotation
from peerpods.kube.webhook.authority import BACKDATE, look, new_authority, new_certificate
from peerpods.kube.webhook.rotation import (
    ForgetOld,
    Hook,
    NewAuthority,
    NewCertificate,
    NextAuthority,
    Promote,
    SetBundle,
    Terms,
    decide,
    encode,
    next_look,
    our_hooks,
    read_ca,
    read_cert,
)

T0 = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TERMS = Terms(names=("w.ns.svc", "10.0.0.1"), overlap=timedelta(minutes=10))
CA_LIFE, CERT_LIFE = 300 * DAY, 30 * DAY


def secret(**texts):
    return {"data": {name.replace("_", "."): encode(text) for name, text in texts.items()}}


class Place:
    """The Secrets and the configuration, and what a keeper does to them."""

    def __init__(self, at=T0):
        self.ca = self.cert = None
        self.hooks = [Hook(0, "ours", None)]
        self.now = at
        self.log = []

    def seen(self):
        return read_ca(self.ca), read_cert(self.cert)

    def decide(self):
        return decide(self.now, *self.seen(), self.hooks, TERMS)

    def settle(self):
        """All that is to be done now; the actions' names."""
        done = []
        for _ in range(12):
            actions = self.decide()
            if not actions:
                self.log += done
                return done
            for action in actions:
                self.do(action)
                done.append(type(action).__name__)
        raise AssertionError(done)

    def do(self, action):
        state = read_ca(self.ca)
        if isinstance(action, SetBundle):
            self.hooks = [attrs.evolve(hook, bundle=action.bundle) for hook in self.hooks]
        elif isinstance(action, NewAuthority):
            made = new_authority(self.now, CA_LIFE)
            self.ca = secret(ca_crt=made.cert, ca_key=made.key, old_crt=action.old_pem)
        elif isinstance(action, NextAuthority):
            made = new_authority(self.now, CA_LIFE)
            self.ca["data"] |= secret(next_crt=made.cert, next_key=made.key)["data"]
        elif isinstance(action, Promote):
            self.ca = secret(ca_crt=state.next_pem, ca_key=state.next_key, old_crt=state.ca_pem)
        elif isinstance(action, ForgetOld):
            del self.ca["data"]["old.crt"]
        elif isinstance(action, NewCertificate):
            from peerpods.kube.webhook.authority import Issued

            leaf = new_certificate(Issued(cert=state.ca_pem, key=state.key_pem), TERMS.names, self.now, CERT_LIFE)
            self.cert = secret(tls_crt=leaf.cert, tls_key=leaf.key, ca_crt=state.ca_pem)

    def trusts(self, cert):
        """Whether an API server that has the bundle takes this certificate now."""
        leaf = read_cert(cert).leaf
        if not leaf.cert.not_valid_before_utc <= self.now < leaf.ends:
            return False
        bundle = base64.b64decode(self.hooks[0].bundle).decode()
        for pem in bundle.split("-----END CERTIFICATE-----\n"):
            authority = look(pem + "-----END CERTIFICATE-----\n")
            if authority and leaf.signed_by(authority) and authority.ends > self.now:
                return True
        return False


def started():
    place = Place()
    place.settle()
    return place


def test_from_nothing():
    place = Place()
    assert place.settle() == ["NewAuthority", "SetBundle", "NewCertificate"]
    assert place.trusts(place.cert)
    state, cert = place.seen()
    assert cert.leaf.names() == list(TERMS.names)
    assert cert.ca_pem == state.ca_pem
    assert place.decide() == []


def test_without_a_configuration_there_is_a_certificate_already():
    place = Place()
    place.hooks = []
    assert place.settle() == ["NewAuthority", "NewCertificate"]


def test_a_certificate_is_renewed_well_before_its_end():
    place = started()
    place.now = T0 + CERT_LIFE * 0.66
    assert place.settle() == []
    place.now = T0 + CERT_LIFE * 0.67
    assert place.settle() == ["NewCertificate"]


def test_an_authority_is_known_before_it_signs_and_kept_after():
    place = started()
    first, shown = place.seen()[0].ca_pem, place.cert
    place.now = T0 + CA_LIFE * 0.67
    assert place.settle()[:2] == ["NextAuthority", "SetBundle"]
    assert first in place.seen()[0].bundle
    place.now += timedelta(minutes=9)
    assert place.settle() == []
    assert read_cert(place.cert).leaf.signed_by(look(first))
    place.now += timedelta(minutes=2)
    assert place.settle() == ["Promote", "NewCertificate"]
    assert first in place.seen()[0].bundle
    assert place.seen()[0].ca_pem != first
    place.now += timedelta(minutes=11)
    assert place.settle() == ["ForgetOld", "SetBundle"]
    assert first not in place.seen()[0].bundle
    assert not place.trusts(shown)


def test_an_authority_is_not_promoted_while_the_bundle_lacks_it():
    place = started()
    place.now = T0 + CA_LIFE * 0.67
    place.settle()
    place.now += timedelta(minutes=11)
    place.hooks = [Hook(0, "ours", encode(place.seen()[0].ca_pem))]
    assert [type(action) for action in place.decide()] == [SetBundle]


def test_an_overwritten_bundle_is_put_right():
    place = started()
    good = place.hooks
    for wrong in (None, "", "AAAA", encode(new_authority(T0, DAY).cert)):
        place.hooks = [Hook(0, "ours", wrong)]
        assert place.settle() == ["SetBundle"]
        assert place.hooks == good


def test_a_lost_authority_keeps_the_shown_certificate_good_until_it_is_replaced():
    place = started()
    shown = place.cert
    for broken in (None, {}, {"data": None}, {"data": {"ca.crt": "%%%"}}, secret(ca_crt="x", ca_key="y")):
        place.ca = broken
        assert isinstance(place.decide()[0], NewAuthority)
    place.do(place.decide()[0])
    actions = place.decide()
    assert [type(action) for action in actions] == [SetBundle]
    place.do(actions[0])
    assert place.trusts(shown)
    assert place.settle() == ["NewCertificate"]
    assert place.trusts(shown)
    assert place.trusts(place.cert)


def test_a_key_that_is_not_the_authoritys_is_no_use():
    place = started()
    place.ca["data"]["ca.key"] = encode(new_authority(T0, DAY).key)
    assert isinstance(place.decide()[0], NewAuthority)
    place = started()
    place.cert["data"]["tls.key"] = encode(new_authority(T0, DAY).key)
    assert place.settle() == ["NewCertificate"]


def test_a_broken_coming_authority_is_made_anew():
    place = started()
    place.ca["data"]["next.crt"] = encode("x")
    assert place.settle()[:2] == ["NextAuthority", "SetBundle"]


@pytest.mark.parametrize("names", [("w.ns.svc",), ("other",)])
def test_a_missing_name_makes_a_new_certificate(names):
    place = started()
    issuer = place.seen()[0]
    from peerpods.kube.webhook.authority import Issued

    leaf = new_certificate(Issued(cert=issuer.ca_pem, key=issuer.key_pem), names, T0, CERT_LIFE)
    place.cert = secret(tls_crt=leaf.cert, tls_key=leaf.key, ca_crt=issuer.ca_pem)
    assert place.settle() == ["NewCertificate"]


def test_after_a_long_sleep():
    place = started()
    place.now = T0 + 2 * CA_LIFE
    assert place.settle() == ["NewAuthority", "SetBundle", "NewCertificate"]
    assert place.trusts(place.cert)


def test_an_overlap_longer_than_the_rest_of_a_life_is_cut():
    place = started()
    place.now = T0 + CA_LIFE - timedelta(minutes=6)
    place.settle()
    place.now += timedelta(minutes=3, seconds=1)
    assert "Promote" in place.settle()


def test_four_years_in_which_every_admission_works():
    """Replicas show the certificate of a few seconds ago, API servers know the bundle of a few seconds ago."""
    rng = random.Random(4)
    place = started()
    shown = [place.cert]
    while place.now < T0 + 1460 * DAY:
        wait = timedelta(seconds=next_look(place.now, *place.seen(), TERMS))
        # The keeper looks no later than every ten minutes, or is away for up to two days.
        place.now += max(wait, rng.random() * 2 * DAY)
        assert place.trusts(shown[-1])
        place.settle()
        shown = [*shown[-1:], place.cert]
        for cert in shown:
            assert place.trusts(cert)
    assert place.log.count("Promote") >= 6
    assert place.log.count("ForgetOld") >= 6
    assert place.log.count("NewCertificate") > 50


def test_the_next_look_is_never_late_nor_busy():
    place = started()
    assert next_look(T0, None, None, TERMS) == 600
    for part in range(100):
        now = T0 + CA_LIFE * part / 50
        assert 0.2 <= next_look(now, *place.seen(), TERMS) <= 600
    due = T0 + CERT_LIFE * 2 / 3
    assert next_look(due - timedelta(seconds=7), *place.seen(), TERMS) == pytest.approx(7, abs=0.1)


def test_which_webhooks_are_ours():
    def hook(name, **client):
        return {"name": name, "clientConfig": client}

    ours = {"name": "peerpods-webhook", "namespace": "ns", "path": "/mutate-v1-pod"}
    configuration = {
        "webhooks": [
            hook("a", service={**ours, "namespace": "other"}),
            hook("b", service=ours, caBundle="AA=="),
            hook("c", service={**ours, "name": "x"}),
            hook("d", url="https://127.0.0.1:1/mutate-v1-pod?timeout=5s"),
            hook("e", url="https://127.0.0.1:1/other"),
            {"name": "f"},
            None,
        ]
    }
    found = our_hooks(configuration, "peerpods-webhook", "ns", "/mutate-v1-pod")
    assert found == [Hook(1, "b", "AA=="), Hook(3, "d", None)]
    for nothing in (None, {}, {"webhooks": None}):
        assert our_hooks(nothing, "peerpods-webhook", "ns", "/m") == []


def test_certificates_begin_before_now_for_clocks_that_lag():
    place = started()
    assert place.seen()[1].leaf.cert.not_valid_before_utc == T0 - BACKDATE
    assert rotation.read_cert(place.cert).leaf.made == T0
