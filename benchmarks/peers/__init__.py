"""One module per library, with its server and its client: ``python -m benchmarks.peers.NAME serve|call``."""
