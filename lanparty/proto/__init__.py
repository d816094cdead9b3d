"""What is on the wire between members: Ethernet frames, overlay datagrams, pieces, and the arithmetic of their sizes.

Owns: every byte layout of the data path, and the parsers of it. Map:

``mac``        MAC addresses as people write them; the virtual MAC's rules
``ethernet``   Ethernet header, VLAN tags, LLC/SNAP; the layer 2 update frame
``ip``         where the transport header of an IPv4 or IPv6 packet is
``overlay``    the four-byte overlay header; encode and decode batches of datagrams; echoes
``fragments``  cut a frame in pieces, put pieces together in bounded memory
``mtu``        from path MTU to QUIC packet, overlay budget, TAP MTU and TCP MSS
``mss``        clamp the MSS option of TCP SYN segments

Must not know: sockets, tasks, clocks, randomness, QUIC, rooms. ``now`` and entropy are arguments. It imports nothing of
lanparty. All integers on the wire are big-endian.

A function whose name ends in ``_untrusted`` takes bytes from the network. Whatever they are, it raises at most its
module's own error, or returns nothing and counts the reason. ``clamp_mss`` takes such bytes too, and returns unchanged
what it does not understand.
"""
