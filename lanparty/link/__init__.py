"""Interfaces of this machine: TAP, packet sockets, netlink, DHCP. Importer of pyroute2 and trio_asyncio (as demo is).

On every system::

    machine.py       PlayerMachine: what the client needs of a computer -> linux_machine.py, windows/, memory_machine.py
    device.py        what every device is: frames in and out, in batches      memory.py   the same without a kernel
    listen.py        hears one kind of frame, where the system has packet sockets
    journal.py       what was changed, on disk, before it is changed
    address_options.py, names.py   what a player may ask for, and the names of our interfaces

Linux, frames::

    adapter.py       the player's end: tap.py, or veth.py where there is no TAP
    lan.py           the gateway's end, through cable pulls: packet.py (bpf.py, gso.py), own_stack.py, checks.py
    kernel.py        ioctls and socket options of the devices

Linux, the machine's network::

    netlink.py       requests and notifications of the kernel; the role's asyncio loop      kernel_state.py   its types
    address.py       PlayerNetwork: address, routes and DNS of the player's adapter         dns.py
    dhcp.py          the DHCP client's task -> dhcp_client.py (pyroute2's engine) -> dhcp_reply.py (what is believed)
    pin.py           RelayPin: the relay's own route stays outside the tunnel
    underlay.py      the ways to the relay, and their changes
    repair.py        undoes what the journal of a dead run lists, at the next start

Below a line's arrows nothing knows what is above it. Must not know: rooms, QUIC, the control protocol.
"""
