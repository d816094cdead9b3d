"""QUIC for lanparty: aioquic's ``QuicConnection`` driven directly by trio. The only package that imports aioquic.

Map, from the bottom up (each module imports only those above it)::

    settings     constants of our QUIC: sizes, times, ALPN
    trust        certificates: the relay's identity, whom a client believes
    queue        outgoing overlay datagrams: bounded in bytes and in age, oldest dropped first     (no I/O)
    internals    every access to aioquic's private parts, and the configuration it is given
    connection   one connection: datagram batches, control stream, the goodbye                     (no sockets)
    engine       many connections: one batch of packets in, timers, one pass out                   (no sockets)
    table        the relay's engine: connection table, Retry, version negotiation, caps            (no sockets)
    sockets      UDP sockets: batches, local address of each packet, errors survived and counted
    driver       sockets + engine + trio: one reader per socket and one timer
    server       the relay's endpoint
    client       one connection to a relay

Path of a received packet: 1 ``sockets`` reads up to 64 packets, 2 ``engine`` routes each to its connection, which
hands it to aioquic, 3 each touched connection gives its datagrams, one list, to its handler, 4 handlers queue
datagrams on any connection of the endpoint, 5 each connection that has something to send is flushed once, 6
``sockets`` sends. Nothing between 1 and 6 awaits.
"""
