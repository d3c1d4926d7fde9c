"""What goes wrong with machines, said so that it can be put right."""

from __future__ import annotations

from localcloud.errors import LocalCloudError


class MachineError(LocalCloudError):
    """One message for the user: which host or thing, what happened, what would do."""
