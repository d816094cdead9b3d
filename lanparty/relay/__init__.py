"""The public relay: admits endpoints to rooms, and switches frames between the members of one room.

Map, from the bottom up (each module imports only those above it)::

    tally      counters by member, room and relay; pace of reports                          (no I/O)
    storm      how much of what one member sends may go out to others                       (no I/O)
    admission  how many rooms one address may try                                           (no I/O)
    rooms      admission, members, peer ids, limits, the effective MTU                      (no I/O)
    switch     one room's switch: datagrams in, datagrams for the others out, in batches    (no I/O)
    hub        all rooms with their switches: joining and leaving                           (no I/O)
    session    one endpoint: hello, welcome or reject, heartbeats, outbox, goodbye
    sessions   the nursery of all sessions, and the task that looks after what time alone does to them
    options, guard_options     the command line
    app        the whole nursery tree
    bench_switch   what the switch costs, in microseconds (`python -m lanparty.relay.bench_switch`)

A frame's way: ``lanparty.quic`` gives a connection's batch to its session, the session to its room's switch, the switch
asks the guard (``lanparty.guard``) and says who gets what, the session hands that to the receivers' connections.
Nothing in between waits.
"""
