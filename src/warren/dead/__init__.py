"""The dead queues: what ``warren dead`` does, without the terminal."""
