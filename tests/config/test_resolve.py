"""The order of sources, the kinds of values, and the words of mistakes."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peerpods.config import fields as f
from peerpods.config.load import Loader, Mistakes, read_file
from peerpods.config.resolve import describe, nearest, resolve
from peerpods.config.settings import AdaptorSettings, ForwarderSettings, GuestSettings, RelaySettings


@attrs.frozen(kw_only=True)
class Sample:
    port: int = f.option("port", f.integer(1, 65535), 80, "a port", env="SAMPLE_PORT")
    token: str = f.option("token", f.text(), "", "a secret", secret=True)
    wait: float = f.option("wait", f.seconds(0.5, 600), 5.0, "a time")


def found(flags=(), environ=(), table=()):
    return resolve(Sample, flags=dict(flags), environ=dict(environ), table=dict(table), table_name="sample")


@pytest.mark.parametrize(
    ("flags", "environ", "table", "value", "origin"),
    [
        ({"port": "1"}, {"SAMPLE_PORT": "2"}, {"port": 3}, 1, "flag"),
        ({}, {"SAMPLE_PORT": "2"}, {"port": 3}, 2, "environment SAMPLE_PORT"),
        ({}, {"SAMPLE_PORT": ""}, {"port": 3}, 3, "file"),
        ({}, {}, {}, 80, "default"),
    ],
)
def test_flag_beats_environment_beats_file_beats_default(flags, environ, table, value, origin):
    result = found(flags, environ, table)
    assert result.settings is not None
    assert result.settings.port == value
    assert result.origins["port"] == origin


@pytest.mark.parametrize(
    ("flags", "environ", "table", "words"),
    [
        ({"port": "0"}, {}, {}, ["--port", "'0'", "from 1 to 65535"]),
        ({"port": "x"}, {}, {}, ["--port", "'x'"]),
        ({}, {"SAMPLE_PORT": "70000"}, {}, ["SAMPLE_PORT", "'70000'"]),
        ({}, {}, {"port": "ab"}, ["[sample] port", "'ab'"]),
        ({}, {}, {"prt": 1}, ["[sample] prt", "did you mean 'port'"]),
        ({}, {}, {"port": {"a": 1}}, ["[sample] port"]),
        ({"wait": "0.1"}, {}, {}, ["--wait", "0.5 to 600"]),
        ({"wait": "11m"}, {}, {}, ["--wait"]),
    ],
)
def test_a_wrong_value_names_setting_value_and_what_is_allowed(flags, environ, table, words):
    result = found(flags, environ, table)
    assert result.settings is None
    assert len(result.mistakes) == 1
    for word in words:
        assert word in str(result.mistakes[0])


def test_all_mistakes_come_at_once():
    assert len(found({"port": "x", "wait": "y"}, {}, {"nonsense": 1}).mistakes) == 3


def test_a_secret_value_is_in_no_mistake_and_no_report():
    result = found({"token": "hunter2"})
    assert result.settings is not None
    assert "hunter2" not in "\n".join(describe(result.settings, result.origins, "sample"))
    assert "hunter2" not in repr(result.settings)


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90.0), ("1.5s", 1.5), ("5m", 300.0), ("500ms", 0.5), ("0.1h", 360.0)]
)
def test_durations_have_units_as_in_go(text, value):
    assert f.seconds(0, 3600).parse(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "-1", "5 m", "1d", "nan", "inf", "1e3"])
def test_other_durations_are_refused(text):
    with pytest.raises(ValueError):
        f.seconds(0, 3600).parse(text)


@given(st.integers())
def test_an_integer_is_taken_exactly_within_its_bounds(number):
    kind = f.integer(-5, 5)
    if -5 <= number <= 5:
        assert kind.parse(str(number)) == number
    else:
        with pytest.raises(ValueError):
            kind.parse(str(number))


@given(st.text())
def test_no_text_makes_a_kind_raise_anything_but_value_error(text):
    for settings in (AdaptorSettings, RelaySettings, GuestSettings, ForwarderSettings):
        for option in f.options_of(settings).values():
            try:
                option.kind.parse(text)
            except (ValueError, OverflowError):
                continue


@pytest.mark.parametrize("settings", [AdaptorSettings, RelaySettings, GuestSettings, ForwarderSettings])
def test_every_default_is_itself_allowed(settings):
    for option in f.options_of(settings).values():
        if option.required:
            continue
        default = option.default
        text = str(default).lower() if isinstance(default, bool) else str(default)
        assert option.kind.parse(text) == default


def test_file_errors_are_mistakes(tmp_path):
    with pytest.raises(Mistakes, match="a readable file"):
        read_file(str(tmp_path / "none"))
    broken = tmp_path / "broken.toml"
    broken.write_text("[adaptor\n")
    with pytest.raises(Mistakes, match="a TOML file"):
        read_file(str(broken))
    odd = tmp_path / "odd.toml"
    odd.write_text("[adapter]\nx=1\n")
    with pytest.raises(Mistakes, match="did you mean 'adaptor'"):
        read_file(str(odd))


def test_a_value_where_a_table_belongs_is_a_mistake():
    loader = Loader({}, {}, {"provider": {"memory": 3}})
    assert loader.section(RelaySettings, "provider.memory") is None
    with pytest.raises(Mistakes, match="a table"):
        loader.finish()


def test_nearest_is_silent_when_nothing_is_near():
    assert nearest("zzz", ["socket", "pods-dir"]) == ""
    assert nearest("sokcet", ["socket", "pods-dir"]) == "socket"
