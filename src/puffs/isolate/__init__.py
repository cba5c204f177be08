"""File servers in a process of their own: frames, the process, and what stands for it here."""
