"""Asking: calls, casts and their endings. It never imports the server."""
