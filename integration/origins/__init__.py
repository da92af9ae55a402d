"""Real applications to put behind a pair, each a process of its own on a free port."""
