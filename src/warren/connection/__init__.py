"""One connection kept open, and the only importer of Pika."""
