"""The public relay: admits endpoints to rooms, and switches frames between the members of one room.

Map, from the bottom up (each module imports only those above it)::

    levels     how strictly a room is guarded: the operator's choice                        (no I/O)
    guard_rules     the table of rules                                                       (no I/O)
    tally      counters by member, room and relay; pace of reports; token bucket            (no I/O)
    bindings   whose which IP address is                                                    (no I/O)
    guard_standard, guard_arp, guard_dhcp, guard_ipv4, guard_ipv6     the rules by subject   (no I/O)
    guard      what may enter a room: one verdict for each frame                            (no I/O)
    plain      which frames the guard's verdict hangs on the first bytes of: the short way  (no I/O)
    rooms      admission, members, peer ids, limits, the effective MTU                      (no I/O)
    switch     one room's switch: datagrams in, datagrams for the others out, in batches    (no I/O)
    hub        all rooms with their switches: joining and leaving                           (no I/O)
    session    one endpoint: hello, welcome or reject, heartbeats, outbox, goodbye
    sessions   the nursery of all sessions, and the task that looks after what time alone does to them
    options, guard_options     the command line
    app        the whole nursery tree
    bench_switch   what the switch costs, in microseconds (`python -m lanparty.relay.bench_switch`)

A frame's way: ``lanparty.quic`` gives a connection's batch to its session, the session to its room's switch, the switch
asks the guard and says who gets what, the session hands that to the receivers' connections. Nothing in between waits.
"""
