"""Worker processes: loading, starting, watching and ending them; what ``warren serve`` does, without the terminal."""
