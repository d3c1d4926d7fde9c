"""The meshes: how packets move between hosts."""
