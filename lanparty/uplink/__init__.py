"""What the gateway and the client share: reach the relay, be admitted, carry frames, come back after a loss.

Map:
  settings.py  command-line options and what they mean
  resolve.py   the relay's name -> addresses in the order to try          backoff.py  delays between tries (pure)
  loop.py      resolve -> connect -> session -> back-off -> again; which failures end the program
  session.py   one connection's life: hello -> welcome | reject, heartbeats, members, goodbye
  tunnel.py    the data path, plain functions: frames <-> overlay datagrams, MSS clamp, echoes
  echo.py      round-trip time and loss (pure)
  watch.py     notices a changed network, and (gap.py, pure) a machine that slept
  port.py      what a role gives the uplink

Must not know: what a role does with frames (TAP, LAN, CAM refresh, DHCP).
"""
