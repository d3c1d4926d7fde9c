"""What the embedded cloud tells its user when it cannot go on."""

from __future__ import annotations


class LocalCloudError(Exception):
    """One clear message: what went wrong, with its value, and what to do. status: the exit status of the command."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
