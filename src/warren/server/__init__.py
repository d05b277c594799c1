"""Answering: services, workers and what becomes of a request. It never imports the client."""
