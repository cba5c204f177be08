"""puffs compared with servers in C, with tmpfs and with other bindings: `make bench`."""
