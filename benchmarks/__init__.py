"""Round trips of puffs compared with a server in C and with other bindings: `make bench`."""
