"""File servers that come with puffs.

They import the public names of `puffs` only, as anybody's own would.
"""
