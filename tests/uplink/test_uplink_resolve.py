"""The order of a relay's addresses."""

import socket

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lanparty.uplink.resolve import MAX_ADDRESSES, ResolveError, interleave, prefer, resolve

V4 = [("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.3", 1)]
V6 = [("2001:db8::1", 1), ("2001:db8::2", 1)]


@pytest.mark.parametrize(
    ("given_order", "expected"),
    [
        ([], []),
        (V4, V4),
        (V6 + V4, [V6[0], V4[0], V6[1], V4[1], V4[2]]),
        (V4 + V6, [V4[0], V6[0], V4[1], V6[1], V4[2]]),
        ([V4[0], V4[0], V6[0]], [V4[0], V6[0]]),
    ],
)
def test_families_take_turns(given_order, expected):
    assert interleave(given_order) == expected


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.%d", "2001:db8::%d"]), st.integers(1, 30)), max_size=40))
def test_nothing_is_invented_and_the_first_stays_first(drawn):
    addresses = [(template % number, 443) for template, number in drawn]
    ordered = interleave(addresses)
    assert set(ordered) <= set(addresses)
    assert len(ordered) == len(set(ordered)) == min(len(set(addresses)), MAX_ADDRESSES)
    assert ordered[:1] == addresses[:1]


def test_the_last_good_address_comes_first_while_it_is_still_one():
    assert prefer(V4, V4[1]) == [V4[1], V4[0], V4[2]]
    assert prefer(V4, ("192.0.2.9", 1)) == V4
    assert prefer(V4, None) == V4


class Resolver(trio.abc.HostnameResolver):
    def __init__(self, answer):
        self.answer = answer

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
        if isinstance(self.answer, Exception):
            raise self.answer
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                type,
                proto,
                "",
                (address, port, 0, scope) if ":" in address else (address, port),
            )
            for address, scope in self.answer
        ]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


async def test_a_name_gives_all_its_addresses():
    trio.socket.set_custom_hostname_resolver(Resolver([("2001:db8::1", 0), ("fe80::1", 3), ("192.0.2.1", 0)]))
    assert await resolve("relay.example", 443) == [("2001:db8::1", 443), ("192.0.2.1", 443), ("fe80::1%3", 443)]


@pytest.mark.parametrize("literal", ["192.0.2.7", "2001:db8::7"])
async def test_literals_need_no_name_server(literal):
    trio.socket.set_custom_hostname_resolver(Resolver(AssertionError("asked")))
    assert await resolve(literal, 4433) == [(literal, 4433)]


@pytest.mark.parametrize(
    "failure",
    [socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UnicodeError("label empty or too long")],
)
async def test_a_name_that_does_not_resolve_is_a_sentence_that_names_it(failure):
    trio.socket.set_custom_hostname_resolver(Resolver(failure))
    with pytest.raises(ResolveError, match=r"relay\.example.*does not resolve.*--relay"):
        await resolve("relay.example", 443)


async def test_a_name_without_addresses():
    trio.socket.set_custom_hostname_resolver(Resolver([]))
    with pytest.raises(ResolveError, match="no IPv4 or IPv6 address"):
        await resolve("relay.example", 443)
