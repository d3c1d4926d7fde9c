"""What a planned host boots with: its files and its user-data. Pure Python; nothing here knows Pulumi or AWS."""

from host.render import (
    DATA_DEVICE,
    Bundle,
    HostFile,
    UserDataError,
    bundles,
    host_files,
    node_facts,
    user_data,
    user_data_base64,
)

__all__ = [
    "DATA_DEVICE",
    "Bundle",
    "HostFile",
    "UserDataError",
    "bundles",
    "host_files",
    "node_facts",
    "user_data",
    "user_data_base64",
]
