"""The client: a remote player's machine, which gets an adapter that is plugged into the house.

Map: options.py command line, app.py nursery tree, player.py the role's logic, identity.py the virtual MAC and its file.
"""
