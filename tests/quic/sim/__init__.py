"""Congestion control in simulated time: see ``loop``, ``link``, ``endpoint``, ``reference``, ``scenarios``.

``cd tests/quic && python -m sim`` runs every scenario and writes the table of docs/congestion.md.
"""
