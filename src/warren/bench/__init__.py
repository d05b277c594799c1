"""Measuring a running service: what ``warren bench`` does, without the terminal."""
