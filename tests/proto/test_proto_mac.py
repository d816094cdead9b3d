from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proto_corpus import mutations

from lanparty.proto.mac import BROADCAST, MacAddress, MacError, format_mac

OCTETS = bytes.fromhex("021a2b3c4d5e")
CANONICAL = "02:1a:2b:3c:4d:5e"
SPELLINGS = [
    CANONICAL,
    "02:1A:2B:3C:4D:5E",
    "02-1a-2b-3c-4d-5e",
    "02-1A-2B-3c-4D-5E",
    "021a.2b3c.4d5e",
    "021A.2B3C.4D5E",
    "021a2b3c4d5e",
    "021A2B3C4D5E",
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_usual_spellings_have_one_canonical_form(text):
    assert MacAddress.parse(text).octets == OCTETS
    assert str(MacAddress.parse(text)) == CANONICAL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "02",
        " 02:1a:2b:3c:4d:5e",
        "02:1a:2b:3c:4d:5e\n",
        "02:1a:2b:3c:4d",
        "02:1a:2b:3c:4d:5e:6f",
        "2:1a:2b:3c:4d:5e",
        "02:1a-2b:3c-4d:5e",
        "02:1a:2b-3c-4d-5e",
        "021a:2b3c:4d5e",
        "021a-2b3c-4d5e",
        "021a.2b3c4d5e",
        "02.1a.2b.3c.4d.5e",
        "02:1a:2b:3c:4d:5g",
        "02:1a:2b:3c:4d:+5",
        "0x1a2b3c4d5e",
        "021a2b3c4d5",
        "021a2b3c4d5ef",
        "٠2:1a:2b:3c:4d:5e",
        "02:1a:2b:3c:4d:5",
        "a" * 10_000,
    ],
)
def test_anything_else_is_refused_with_a_short_sentence(text):
    with pytest.raises(MacError) as caught:
        MacAddress.parse(text)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("size", [0, 5, 7])
def test_six_bytes_only(size):
    with pytest.raises(MacError):
        MacAddress(bytes(size))
    with pytest.raises(MacError):
        MacAddress.generate(bytes(size))


@pytest.mark.parametrize(
    ("text", "group", "local", "zero", "broadcast"),
    [
        ("00:00:00:00:00:00", False, False, True, False),
        ("ff:ff:ff:ff:ff:ff", True, True, False, True),
        ("01:00:5e:00:00:fb", True, False, False, False),
        ("33:33:00:00:00:01", True, True, False, False),
        ("02:00:00:00:00:00", False, True, False, False),
        ("00:11:22:33:44:55", False, False, False, False),
    ],
)
def test_what_an_address_is(text, group, local, zero, broadcast):
    mac = MacAddress.parse(text)
    assert (mac.is_group, mac.is_local, mac.is_zero, mac.is_broadcast) == (group, local, zero, broadcast)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("00:00:00:00:00:00", "zero"),
        ("ff:ff:ff:ff:ff:ff", "group"),
        ("03:00:00:00:00:01", "group"),
        ("00:11:22:33:44:55", "locally administered"),
    ],
)
def test_what_cannot_be_a_virtual_mac(text, why):
    with pytest.raises(MacError, match=why):
        MacAddress.parse(text).require_virtual()


@given(st.binary(min_size=6, max_size=6))
def test_generated_addresses_are_virtual_and_keep_the_other_46_bits(entropy):
    mac = MacAddress.generate(entropy)
    assert mac.require_virtual() is mac
    assert mac.octets[1:] == entropy[1:]
    assert mac.octets[0] >> 2 == entropy[0] >> 2


@given(st.binary(min_size=6, max_size=6))
def test_canonical_form_round_trips(octets):
    mac = MacAddress(octets)
    assert MacAddress.parse(str(mac)) == mac
    assert str(mac) == format_mac(octets)
    assert mac.is_broadcast == (octets == BROADCAST)


def test_mutated_spellings_parse_or_raise_mac_error():
    corpus = [text.encode() for text in SPELLINGS]
    good = 0
    for data in mutations(corpus, seed=1):
        try:
            mac = MacAddress.parse(data.decode("latin-1"))
        except MacError:
            continue
        good += 1
        assert MacAddress.parse(str(mac)) == mac
    assert good > 100
