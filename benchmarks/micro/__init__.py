"""What one step of the hot path takes: ``make bench-micro``, ``make bench-micro ARGS=--instructions``."""
