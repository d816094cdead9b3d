"""Interfaces of this machine: TAP, packet sockets, netlink, DHCP. Importer of pyroute2 and trio_asyncio (as demo is).

Frames::

    device.py        what every device is: frames in and out, in batches      memory.py   the same without a kernel
    adapter.py       the player's end: tap.py, or veth.py where there is no TAP
    lan.py           the gateway's end, through cable pulls: packet.py (bpf.py, gso.py), own_stack.py, checks.py
    kernel.py        ioctls and socket options of the devices

The machine's network::

    netlink.py       requests and notifications of the kernel; the role's asyncio loop      kernel_state.py   its types
    address.py       PlayerNetwork: address, routes and DNS of the player's adapter         dns.py
    dhcp.py          the DHCP client's task -> dhcp_client.py (pyroute2's engine) -> dhcp_reply.py (what is believed)
    pin.py           RelayPin: the relay's own route stays outside the tunnel
    journal.py       what was changed, on disk, before it is changed -> repair.py, at the next start

Below a line's arrows nothing knows what is above it. Must not know: rooms, QUIC, the control protocol.
"""
