"""The gateway: a box wired to the house LAN that plugs a room's players into it.

Map: options.py command line, app.py nursery tree, bridge.py the role's logic, members.py who is remote and which frames
pass (pure), cam.py when the house switch is reminded (pure).
"""
