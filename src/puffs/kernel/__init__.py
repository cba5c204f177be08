"""The kernel half: mounts, vnodes and the policing of replies.

Pure: no device, no socket, no clock of its own.
"""
