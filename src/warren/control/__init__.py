"""The control plane: what may be asked of running servers, and how they answer. docs/wire.md has the messages."""
