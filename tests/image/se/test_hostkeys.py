"""Host key documents against self-made chains: what holds, and everything that must not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from peerpods.errors import ConfigError, Refused
from peerpods.image.se import hostkeys
from tests.image.se import authority
from tests.image.se.authority import COMPANY, DAY, NOW, World, host, issue, name, revocation, signer_name, world


def verify(one: World) -> list[ec.EllipticCurvePublicKey]:
    return hostkeys.verify([one.host.certificate], one.trust(), NOW)


def test_a_sound_document_gives_its_key() -> None:
    one = world()
    assert [key.public_numbers() for key in verify(one)] == [one.host.key.public_key().public_numbers()]


@pytest.mark.parametrize("town", ["Poughkeepsie", "Armonk"])
@pytest.mark.parametrize("listed", ["Poughkeepsie", "Armonk"])
@pytest.mark.parametrize("turned", [False, True])
def test_both_towns_and_any_order_name_the_same_signer(town: str, listed: str, turned: bool) -> None:
    one = world({"subject": signer_name("Armonk")})
    one.host = host(one.signer, issuer_name=signer_name(town, turned=turned))
    one.lists[2] = revocation(one.signer, issuer_name=signer_name(listed, turned=turned))
    assert len(verify(one)) == 1


def test_a_chain_without_a_certificate_between_holds() -> None:
    one = world()
    one.signer = issue(signer_name(), one.root)
    one.host = host(one.signer)
    one.lists[2] = revocation(one.signer)
    assert len(verify(one)) == 1


def _expired(one: World) -> None:
    one.host = host(one.signer, end=NOW - DAY)


def _early(one: World) -> None:
    one.host = host(one.signer, begin=NOW + DAY)


def _revoked(one: World) -> None:
    one.lists[2] = revocation(one.signer, [one.host])


def _revoked_in_a_second_list(one: World) -> None:
    one.lists.append(revocation(one.signer, [one.host]))


def _signer_revoked(one: World) -> None:
    one.lists[1] = revocation(one.between, [one.signer])


def _between_revoked(one: World) -> None:
    one.lists[0] = revocation(one.root, [one.between])


def _other_key_signs(one: World) -> None:
    impostor = issue(signer_name())
    one.host = host(impostor)


def _other_key_with_the_signer_s_key_id(one: World) -> None:
    forged = host(authority.Holder(one.signer.certificate, ec.generate_private_key(ec.SECP384R1())))
    one.host = forged


def _other_issuer(one: World) -> None:
    one.host = host(one.signer, issuer_name=signer_name("White Plains"))


def _no_list(one: World) -> None:
    del one.lists[2]


def _no_list_of_the_root(one: World) -> None:
    del one.lists[0]


def _old_list(one: World) -> None:
    one.lists[2] = revocation(one.signer, begin=NOW - 9 * DAY, end=NOW - DAY)


def _forged_list(one: World) -> None:
    one.lists[2] = revocation(one.signer, key=ec.generate_private_key(ec.SECP384R1()))


def _other_curve(one: World) -> None:
    one.host = host(one.signer, key=ec.generate_private_key(ec.SECP384R1()))


def _rsa(one: World) -> None:
    one.host = host(one.signer, key=rsa.generate_private_key(65537, 2048))


def _for_certificates(one: World) -> None:
    one.host = host(one.signer, on={"key_cert_sign": True})


def _other_root(one: World) -> None:
    one.root = issue(name(COMMON_NAME="Test Root"), authority=True)


def _root_is_no_root(one: World) -> None:
    one.root = one.between


def _two_signers(one: World) -> None:
    one.between = one.signer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_expired, "expired on 2026-02-28"),
        (_early, "not valid before"),
        (_revoked, "is revoked by its issuer"),
        (_revoked_in_a_second_list, "is revoked by its issuer"),
        (_signer_revoked, "is revoked by its issuer"),
        (_between_revoked, "is revoked by its issuer"),
        (_other_key_signs, "is not signed by"),
        (_other_key_with_the_signer_s_key_id, "is not signed by"),
        (_other_issuer, "names another issuer"),
        (_no_list, "no valid revocation list"),
        (_no_list_of_the_root, "no valid revocation list of CN=Test Root"),
        (_old_list, "one is not valid now"),
        (_forged_list, "one is not signed by it"),
        (_other_curve, "has no P-521 key"),
        (_rsa, "has no P-521 key"),
        (_for_certificates, "not for agreeing on keys"),
        (_other_root, "no given certificate has signed CN=Test Between"),
        (_root_is_no_root, "is not signed by itself"),
        (_two_signers, "2 of the given certificates"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_does_not_hold_is_refused_in_words(change: Callable[[World], None], words: str) -> None:
    one = world()
    change(one)
    with pytest.raises(Refused, match=words):
        verify(one)


@pytest.mark.parametrize(
    "subject",
    [
        name(COMMON_NAME=COMPANY),
        signer_name("White Plains"),
        signer_name(unit="Another Service"),
        name(
            COUNTRY_NAME="US",
            STATE_OR_PROVINCE_NAME="New York",
            LOCALITY_NAME="Armonk",
            ORGANIZATION_NAME="Other",
            ORGANIZATIONAL_UNIT_NAME="Key Signing Service",
            COMMON_NAME=COMPANY,
        ),
    ],
)
def test_another_subject_is_no_signing_key(subject: object) -> None:
    with pytest.raises(Refused, match="none of the given certificates is named"):
        verify(world({"subject": subject}))


@pytest.mark.parametrize(
    ("signer", "between", "words"),
    [
        ({"end": NOW - DAY}, {}, "expired"),
        ({}, {"end": NOW - DAY}, "expired"),
        ({}, {"authority": False}, "may not sign"),
        ({}, {"on": {"digital_signature": True}}, "may not sign"),
        ({}, {"key": rsa.generate_private_key(65537, 1024)}, "too weak"),
        ({"on": {"key_agreement": True}}, {}, "is not for signing"),
    ],
)
def test_a_chain_that_does_not_hold(signer: dict, between: dict, words: str) -> None:
    with pytest.raises(Refused, match=words):
        verify(world(signer, between))


def test_one_bad_document_of_several_is_enough() -> None:
    one = world()
    bad = host(one.signer, end=NOW - DAY)
    with pytest.raises(Refused, match="expired"):
        hostkeys.verify([one.host.certificate, bad.certificate], one.trust(), NOW)
    with pytest.raises(Refused, match="at least one host key"):
        hostkeys.verify([], one.trust(), NOW)


def test_files_are_read_in_both_forms_and_refused_in_words(tmp_path: Path) -> None:
    one = world()
    files = authority.write(one, tmp_path)
    trust = hostkeys.read_trust(files["root"], [files["chain"]], [files["one"], files["two"]])
    assert trust == one.trust()
    assert hostkeys.read_certificates(files["host"]) == [one.host.certificate]
    (tmp_path / "bad").write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for path, words in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path / "bad", "no readable"),
        (files["one"], "no "),
    ):
        with pytest.raises(ConfigError, match=words):
            hostkeys.read_certificates(path)
    with pytest.raises(ConfigError, match="2 certificates"):
        hostkeys.read_trust(files["chain"], [], [])


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl here")
@pytest.mark.parametrize(
    ("change", "holds"),
    [(None, True), (_signer_revoked, False), (_between_revoked, False), (_no_list_of_the_root, False)],
)
def test_openssl_s_strict_check_of_the_chain_says_the_same(
    tmp_path: Path, change: Callable[[World], None] | None, holds: bool
) -> None:
    one = world()
    if change:
        change(one)
    pem = {who: getattr(one, who).certificate.public_bytes(Encoding.PEM) for who in ("root", "between", "signer")}
    pem["lists"] = b"".join(item.public_bytes(Encoding.PEM) for item in one.lists)
    for file, data in pem.items():
        (tmp_path / file).write_bytes(data)
    when = str(int(NOW.timestamp()))
    words = ["-x509_strict", "-crl_check_all", "-auth_level", "2", "-attime", when, "-CAfile", "root",
             "-untrusted", "between", "-CRLfile", "lists", "signer"]  # fmt: skip
    done = subprocess.run(["openssl", "verify", *words], cwd=tmp_path, capture_output=True, timeout=20)
    assert (done.returncode == 0) is holds, done.stderr
    try:
        verify(one)
    except Refused:
        assert not holds
    else:
        assert holds
