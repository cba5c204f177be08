"""The checks, one module for each group. Each must pass on any file system of the host itself."""
