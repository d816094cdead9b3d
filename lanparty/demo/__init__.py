"""The demo: a whole LAN party on one machine, in network namespaces.

Owns: the virtual house (also the fixture of ``tests/lan`` and of the bench), the sandbox that lets a normal user
build it, and the story that ``python -m lanparty.demo`` tells.
Must not know: how the three programs work. They are started as their users start them and watched by their events.
"""
