"""The user half: what an author of a file server sees, and nothing of how it is attached or
mounted.
"""
