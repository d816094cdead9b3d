"""QUIC for lanparty: aioquic's ``QuicConnection`` driven directly by trio, with our own batched data path beside it.

Map, from the bottom up (each module imports only those above it)::

    settings         constants of our QUIC: sizes, times, ALPN
    trust            certificates: the relay's identity, whom a client believes
    codec, received  1-RTT packets sealed and opened in batches; numbers received                      (no I/O)
    flight, pacer    what is in flight: RTT, losses, delivery rate (RFC 9002); when it may leave       (no I/O)
    congestion*      how much may be in flight, how fast: the queue stays in our hands                 (no I/O)
    pmtu             path MTU discovery (RFC 8899)                                                     (no I/O)
    queue, codel     what waits for congestion control: fair, control first, CoDel on bulk (RFC 8290)  (no I/O)
    internals        every access to aioquic, and where its path and ours meet
    connection       one connection: datagram batches, control stream, the goodbye                     (no sockets)
    engine           many connections: one batch of packets in, timers, one pass out                   (no sockets)
    table            the relay's engine: connection table, Retry, version negotiation, caps            (no sockets)
    sockets          UDP sockets: runs of packets per system call, local address and arrival time, errors survived
    driver           sockets + engine + trio: one reader per socket and one timer
    server           the relay's endpoint
    client           one connection to a relay
    bench_*          micro-benchmarks: ``python -m lanparty.quic.bench_codec``

Path of a received packet: 1 ``sockets`` reads runs of packets, 2 ``engine`` routes each run to its connection, which
opens it in one loop, or hands it to aioquic, 3 each touched connection gives its datagrams, one list, to its handler, 4
handlers queue datagrams on any connection of the endpoint, 5 each connection that has something to send is flushed
once: packed, sealed, recorded, 6 ``sockets`` sends runs of equal size. Nothing between 1 and 6 awaits.
"""
