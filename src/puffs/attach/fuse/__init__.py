"""The attachment to the Linux kernel: the FUSE protocol on /dev/fuse."""
