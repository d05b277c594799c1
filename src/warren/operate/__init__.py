"""What operators do with running services, without the terminal: look, count, find, draw, describe."""
