"""Every setting: its default, what it accepts, and what it says of what it does not."""

from __future__ import annotations

import math

import pytest

from gearmand.config import BY_NAME, LEVELS, OPTIONS, Config, Option, value_of
from gearmand.errors import ConfigError

OF_KIND = {kind: [option for option in OPTIONS if option.kind == kind] for kind in {option.kind for option in OPTIONS}}


def one(kind: str) -> Option:
    return Option("an-option", "", kind, None, "", "", lowest=-1, highest=100)


# -- the table ----------------------------------------------------------------------


def test_options_have_names_of_their_own():
    assert len(BY_NAME) == len(OPTIONS)


def test_options_have_short_names_of_their_own():
    short = [option.short for option in OPTIONS if option.short]
    assert len(set(short)) == len(short) and all(len(name) == 1 for name in short)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_default_of_an_option_is_a_value_of_it(option):
    if option.default is not None and option.kind != "flag":
        assert value_of(option, option.default) == option.default


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_help_of_an_option_is_a_sentence(option):
    assert option.help.endswith((".", ".)"))


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.kind != "flag"], ids=lambda option: option.name)
def test_option_with_a_value_says_what_stands_for_it(option):
    assert option.value


def test_config_without_values_has_the_defaults():
    config = Config()
    assert {option.name: getattr(config, option.attribute) for option in OPTIONS} == {
        option.name: option.default for option in OPTIONS
    }


def test_config_takes_names_with_underscores():
    assert Config(job_retries=3).job_retries == 3


@pytest.mark.parametrize("name", ["nothing", "port_", "attribute"])
def test_config_with_unknown_option_is_refused_by_name(name):
    with pytest.raises(ConfigError, match="there is no option " + name):
        Config(**{name: 1})


def test_config_asked_for_unknown_option_raises_attribute_error():
    with pytest.raises(AttributeError, match="there is no option nothing"):
        Config().nothing


def test_repr_of_config_has_what_differs_from_the_default():
    assert repr(Config(port=1, listen="::1", backlog=1024)) == "Config(listen=('::1',), port=1)"


# -- kinds --------------------------------------------------------------------------

GOOD = [
    ("flag", True, True),
    ("flag", False, False),
    ("text", "a", "a"),
    ("text", "", ""),
    ("list", "a", ("a",)),
    ("list", ["a", "b"], ("a", "b")),
    ("list", (), ()),
    ("number", 5, 5),
    ("number", "5", 5),
    ("number", "-1", -1),
    ("number", "+7", 7),
    ("number", "0100", 100),
    ("size", 5, 5),
    ("size", "50", 50),
    ("size", "0K", 0),
    ("seconds", 5, 5),
    ("seconds", 0.5, 0.5),
    ("seconds", "0.5", 0.5),
    ("seconds", "7", 7.0),
    ("seconds", "7.", 7.0),
    ("level", "info", "INFO"),
    ("level", "DEBUG", "DEBUG"),
    ("number", None, None),
    ("text", None, None),
]


@pytest.mark.parametrize("kind, value, expected", GOOD)
def test_value_of_its_kind_is_accepted(kind, value, expected):
    found = value_of(one(kind), value)
    assert found == expected and type(found) is type(expected)


BAD = [
    ("flag", "yes"),
    ("flag", 1),
    ("flag", ""),
    ("text", 5),
    ("text", b"a"),
    ("text", "a\0b"),
    ("list", [5]),
    ("list", 5),
    ("list", ["a\0"]),
    ("number", "5x"),
    ("number", ""),
    ("number", " 5"),
    ("number", "5\n"),
    ("number", "\u0665"),
    ("number", 5.0),
    ("number", True),
    ("number", "9" * 30),
    ("number", 101),
    ("number", -2),
    ("number", "101"),
    ("size", "5k"),
    ("size", "-1"),
    ("size", "1T"),
    ("size", "K"),
    ("size", 1.5),
    ("size", "1K"),
    ("seconds", "1e3"),
    ("seconds", "-1"),
    ("seconds", "inf"),
    ("seconds", math.nan),
    ("seconds", math.inf),
    ("seconds", True),
    ("seconds", "101"),
    ("level", "LOUD"),
    ("level", 20),
    ("level", ""),
]


@pytest.mark.parametrize("kind, value", BAD)
def test_value_that_cannot_be_used_is_refused_by_name(kind, value):
    with pytest.raises(ConfigError, match="^--an-option: expected "):
        value_of(one(kind), value)


@pytest.mark.parametrize("name, text, value", [("max_packet", "64M", 64 * 1024**2), ("max_unsent", "2G", 2 * 1024**3), ("max_line", "8K", 8192)])
def test_size_takes_units_of_1024(name, text, value):
    assert getattr(Config(**{name: text}), name) == value


@pytest.mark.parametrize("option", OF_KIND["number"] + OF_KIND["size"], ids=lambda option: option.name)
def test_bounds_of_a_number_are_accepted_and_nothing_beyond(option):
    needed = {"ssl_certificate": "a file"} if option.name == "ssl-port" else {}
    for value in (option.lowest, option.highest):
        assert getattr(Config(**{option.attribute: value}, **needed), option.attribute) == value
    for value in (option.lowest - 1, option.highest + 1):
        with pytest.raises(ConfigError, match="^--%s: expected .* from " % option.name):
            Config(**{option.attribute: value})


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.default is not None], ids=lambda option: option.name)
def test_none_for_an_option_that_has_a_default_is_refused(option):
    with pytest.raises(ConfigError):
        Config(**{option.attribute: None})


@pytest.mark.parametrize("level", LEVELS)
def test_level_of_the_c_server_is_accepted(level):
    assert Config(verbose=level.lower()).verbose == level


# -- what hangs together --------------------------------------------------------------


@pytest.mark.parametrize("unit", ["ms", "s"])
def test_timeout_unit_is_milliseconds_or_seconds(unit):
    assert Config(timeout_unit=unit).timeout_unit == unit


@pytest.mark.parametrize(
    "name, value",
    [
        ("timeout_unit", "m"),
        ("timeout_unit", ""),
        ("queue_type", "other"),
        ("durability", "some"),
        ("handler_cpu", "first"),
        ("handler_cpu", "-1"),
        ("handler_cpu", ""),
        ("handler_cpu", "1\n"),
        ("job_handle_prefix", ""),
        ("job_handle_prefix", "a b"),
        ("job_handle_prefix", "a\n"),
        ("job_handle_prefix", "x" * 41),
        ("job_handle_prefix", "\u00e9" * 21),
        ("job_handle_prefix", "\udcff"),
    ],
)
def test_text_that_cannot_be_used_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match="^--%s: expected " % name.replace("_", "-")):
        Config(**{name: value})


@pytest.mark.parametrize("cpu", ["auto", "none", "0", "15"])
def test_handler_cpu_is_auto_none_or_a_number(cpu):
    assert Config(handler_cpu=cpu).handler_cpu == cpu


@pytest.mark.parametrize("prefix", ["H:host", "x" * 40, "\u00e9" * 20, None])
def test_job_handle_prefix_has_up_to_40_bytes(prefix):
    assert Config(job_handle_prefix=prefix).job_handle_prefix == prefix


@pytest.mark.parametrize(
    "options, said",
    [
        ({"ssl": True}, "--ssl needs --ssl-certificate FILE"),
        ({"ssl_port": 0}, "--ssl-port needs --ssl-certificate FILE"),
        ({"ssl": True, "ssl_port": 0, "ssl_certificate": "x"}, "one of them at a time"),
        ({"ssl_key": "x"}, "--ssl-key is of no use without --ssl or --ssl-port"),
        ({"ssl_ca_file": "x"}, "--ssl-ca-file is of no use"),
        ({"unix_mode": "0680"}, "--unix-mode: expected three octal digits"),
        ({"unix_mode": "4755"}, "--unix-mode: expected three octal digits"),
    ],
)
def test_options_of_tls_and_unix_sockets_that_do_not_go_together_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Config(**options)
