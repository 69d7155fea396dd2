"""Search for better training recipes; empty in this version."""
