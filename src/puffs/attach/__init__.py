"""Attachments: what connects a host to the kernel half."""
