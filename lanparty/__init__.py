"""lanparty: a remote player's computer behaves as if it were plugged into the switch in the house."""

__version__ = "0.1.0"
