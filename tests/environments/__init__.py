"""Where Warren runs, as docs/environments.md says: threads, processes, event loops and systems of other kinds."""
