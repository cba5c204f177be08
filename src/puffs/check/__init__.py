"""`puffs check`: a conformance battery that an author runs over his own file server.

`battery` holds the checks, one module for each group of operations; `runner` runs them, in process
and on a real mount, each under limits that no file server can break out of.
"""
