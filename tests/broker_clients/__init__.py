"""Other people's clients, with their default options, on the embedded broker."""
