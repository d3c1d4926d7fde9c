"""The one error that day-two commands end with."""


class OpsError(RuntimeError):
    """The command failed. The message says what failed and, where known, how to fix it. status: the exit status."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status
