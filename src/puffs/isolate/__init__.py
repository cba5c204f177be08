"""File servers in processes of their own."""
