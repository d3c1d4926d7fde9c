"""The ensemble of control nodes."""
