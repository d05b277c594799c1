"""AMQP 0-9-1 as bytes, pure: frames, header tables, and which numbers are open."""
