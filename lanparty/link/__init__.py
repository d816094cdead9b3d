"""Interfaces of this machine: TAP, packet sockets, netlink, DHCP. The only importer of pyroute2 and trio_asyncio."""
