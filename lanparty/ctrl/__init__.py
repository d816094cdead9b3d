"""The control plane: what endpoint and relay say to each other beside the frames. No I/O, no clock, no randomness."""
