"""`peerpods image`: what it prints, its exit codes, and what changed in words."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from peerpods.cli.main import cli
from peerpods.image.publish import signing
from peerpods.image.publish.diff import diff
from tests.image.measure import synthetic
from tests.image.publish.conftest import LOCK, Maker


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["image", *words])
    return done.exit_code, done.stdout, done.stderr


def test_measure_prints_values_and_progress(make_image: Maker) -> None:
    image = make_image()
    code, out, err = run("measure", str(image.path), "--vcpus", "2", "--cpu", "EPYC-Milan", "--features", "0x1")
    assert code == 0
    assert "SNP launch digests" in err
    digest = next(
        value["digest"]
        for value in image.json("measurements.json")["snp"]["values"]
        if (value["boot"], value["cpu"], value["vcpus"], value["features"]) == ("uki", "EPYC-Milan", 2, 1)
    )
    assert f"{digest}  EPYC-Milan x2 features 0x1 qemu" in out


def test_measure_as_json_is_the_published_file(make_image: Maker) -> None:
    image = make_image()
    code, out, _ = run("measure", str(image.path), "--json")
    assert code == 0 and json.loads(out) == image.json("measurements.json")


def test_wrong_words_are_one_line_and_exit_code_two(make_image: Maker, tmp_path: Path) -> None:
    image = make_image()
    code, _, err = run("measure", str(image.path), "--features", "many")
    assert (code, err.strip().splitlines()[-1]) == (
        2,
        "peerpods: --features many: no number (give one such as 0x1 or 0x21)",
    )
    (tmp_path / "empty").mkdir()
    empty = str(tmp_path / "empty")
    for words in (["verify"], ["measure"], ["rvps"], ["diff", empty], ["diff", str(image.path)]):
        code, _, err = run(*words, empty)
        assert (code, err.count("\n")) == (2, 1) and f"{empty} is no image folder" in err, words
    (tmp_path / "log").write_text("no log")
    code, _, err = run("replay", empty, str(tmp_path / "log"))
    assert (code, err.count("\n")) == (2, 1) and "is no image folder" in err
    code, _, err = run("replay", str(image.path), str(tmp_path / "log"))
    assert (code, err.count("\n")) == (1, 1) and str(tmp_path / "log") in err
    code, _, err = run("measure", str(image.path), "--cpu", "i386")
    assert code == 1 and "CPU model 'i386' is unknown" in err


def test_verify_with_the_publishers_key(make_image: Maker, signing_key: Ed25519PrivateKey, tmp_path: Path) -> None:
    image = make_image()
    key = tmp_path / "key.pub"
    key.write_text(signing.public_pem(signing_key.public_key()))
    code, out, _ = run("verify", str(image.path), "--key", str(key))
    assert code == 0 and "FAILED" not in out and "6 checks" not in out
    (image.path / "cmdline").write_text("console=ttyS0 rw\n")
    code, out, _ = run("verify", str(image.path), "--key", str(key), "--json")
    assert code == 1
    assert (
        "changed since they were signed: cmdline"
        in {row["check"]: row for row in json.loads(out)["checks"]}["digests"]["text"]
    )


def test_rvps_prints_the_message_and_the_values(make_image: Maker) -> None:
    image = make_image()
    code, out, _ = run("rvps", str(image.path))
    assert code == 0 and json.loads(out)["type"] == "sample"
    code, out, _ = run("rvps", str(image.path), "--values")
    assert code == 0 and "snp_launch_measurement" in json.loads(out)


def test_measurements_of_an_older_form_end_in_one_line(make_image: Maker) -> None:
    image = make_image(tee="none")
    measured = image.json("measurements.json")
    measured["vtpm"]["sha256"]["pcr11"] = {"stub": measured["vtpm"]["sha256"]["pcr11"]}
    (image.path / "measurements.json").write_text(json.dumps(measured))
    place = "measurements.json: $.vtpm.sha256.pcr11"
    for words in (["rvps", str(image.path)], ["diff", str(image.path), str(image.path)]):
        code, _, err = run(*words)
        assert (code, err.count("\n")) == (1, 1) and place in err
    code, out, _ = run("verify", str(image.path))
    assert code == 1 and f"FAILED reference values    {place}" in out


def test_diff_says_causes_and_what_they_changed(make_image: Maker) -> None:
    old = make_image("old")
    lock = LOCK.replace("257.9-1", "257.10-1").replace("b" * 64, "e" * 64) + f"nftables 1.1.3-1 {'f' * 64}\n"
    new = make_image(
        "new",
        packages_lock=lock.encode(),
        cmdline=b"console=ttyS0 ro debug\n",
        initrd_img=b"other initrd",
        podvm_efi=synthetic.program(linux=synthetic.program(), extra=b"x"),
    )
    changes = diff(old, new)
    assert "package systemd: 257.9-1~deb13u1 became 257.10-1~deb13u1" in changes
    assert "package nftables 1.1.3-1 was added" in changes
    assert "command line: debug was added" in changes
    assert any(line.startswith("file initrd.img differs (300 to 12 bytes)") for line in changes)
    assert any(line.startswith("reference value snp_launch_measurement: ") for line in changes)
    code, out, _ = run("diff", str(old.path), str(new.path))
    assert code == 1 and out.splitlines() == changes


def test_diff_names_the_tools_that_made_the_image(make_image: Maker) -> None:
    tool = f"dracut-core 106-6 {'a' * 64}\n"
    old = make_image("old", tools_lock=tool.encode())
    new = make_image("new", tools_lock=tool.replace("106-6", "107-1").replace("a" * 64, "b" * 64).encode())
    assert diff(old, new) == ["tool dracut-core: 106-6 became 107-1"]
    assert diff(make_image("given"), new) == ["tool dracut-core 107-1 was added"]


def test_equal_images_have_no_difference(make_image: Maker) -> None:
    one, two = make_image("one"), make_image("two")
    code, out, _ = run("diff", str(one.path), str(two.path))
    assert (code, out) == (0, "the two images are equal\n")
