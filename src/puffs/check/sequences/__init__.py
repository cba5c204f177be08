"""Random sequences of system calls, on a mount and on a directory of the host's own.

Both must give the same. `calls` holds what a step may call beside `os`, `steps` which steps there
are, `play` carries them out, `script` prints them, `search` looks for a difference and makes it
small.
"""
