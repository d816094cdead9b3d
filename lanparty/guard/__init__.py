"""The layer-2 guard: what a player may send, and whose an address is. Pure: no I/O, no clock, no randomness.

The relay judges by it what enters a room, the gateway what leaves for the house; neither relies on the other.

Map, from the bottom up (each module imports only those above it)::

    bucket     token bucket
    levels     how strictly a room is guarded: the operator's choice
    rules      the table of rules
    bindings   whose which IP address is
    standard, arp, dhcp, ipv4, ipv6     the rules by subject
    guard      one verdict for each frame
    plain      which frames the verdict hangs on the first bytes of: the short way
"""
