"""The player's computer when it is a Windows 10 or 11: TAP-Windows6 and the IP Helper API.

    machine.py          the whole computer, as ``lanparty.link.machine`` asks for it

    adapters.py         finds TAP-Windows6 adapters, chooses one, gives it its MAC
    driver.py           opens an adapter, asks its driver for things; the sentences when it does not open
    tap.py              an open adapter as an ``EthernetDevice``: frames in batches
    iocp.py             overlapped operations, and our share of trio's completion port
    registry.py         reads and writes single values of the registry

    adapter_network.py  what the adapter's settings are while this program runs
    plan.py             what is to be changed, computed from what is there; no Windows in it
    transaction.py      makes the changes, undoes them, repairs what a crashed run left
    ownership.py        who wrote a journal, and where journals are
    network.py          reads and writes what a plan speaks of, and hears of its changes
    iphelper.py         routes, interfaces, addresses and DNS servers, through iphlpapi.dll
    category.py         whether Windows takes the house's network for a private one
    pin.py              the relay's own route, and the watch over it

    address.py          Windows' DHCP client, or a static address
    dhcp.py, lease.py   what that client says, and what it means
    fixed.py            an address that the player gave

    winapi/             Microsoft's declarations, one module for each DLL

No module here needs Windows to be imported: everything that exists only there is behind ``winapi.dll.Library``, and
trio's completion port behind ``iocp``. So all of it runs on Linux, against ``tests/windows/fake_windows.py``.

Must not know: rooms, members, the relay's protocol.
"""
