"""What Warren's speed is, beside that of others: ``make bench``. See README.md in this folder."""
