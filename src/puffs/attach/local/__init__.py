"""The attachment in process: a file system used by calls, with nothing mounted.

`vfs` is the interface, `namei` walks paths, `permissions` decides as a host does, `file` and
`scan` are open files and directories, and `host` connects it all to the kernel half.
"""
