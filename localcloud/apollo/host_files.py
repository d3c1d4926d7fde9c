"""Files of the user's own on every host (`up --host-files DIR`): the folder is copied, and is a layer over a host's root.

The copy belongs to root, and its folders have the modes that the hosts' image gives them. A host keeps the layer that it was
made with, so a later copy stands beside an earlier one until `down`.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import LocalCloudError

LAYERS = "host-files"
# Where a host has something else on top, so that a file would not be seen.
_COVERED = ("data", "dev", "proc", "run", "sys", "tmp", "var/lib/docker")
_SHOWN = 10


def check(source: Path, image: Path | None = None) -> None:
    """Refuses what cannot be laid over a host's root. image: that root, where it is made already.

    LocalCloudError with every reason: no folder, an empty one, a device or socket, a place that is covered, a symbolic link
    that leads out of the folder, and with an image a file in the place of a folder or the other way round.
    """
    if not source.is_dir():
        what = "is a file" if source.exists() else "does not exist"
        raise LocalCloudError(f"--host-files {source}: {what}; give a folder that holds files at their path on a host")
    entries = list(_entries(source))
    if not any(not path.is_dir() or path.is_symlink() for path in entries):
        raise LocalCloudError(f"--host-files {source}: there is no file in it; give one such as opt/mesos/sbin/mesos-agent")
    problems = [words for path in entries if (words := _problem(source, path, image))]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise LocalCloudError(f"--host-files {source}:\n" + "\n".join(f"  {words}" for words in problems[:_SHOWN] + more))


def adopt(folder: Path, source: Path, image: Path) -> None:
    """Makes a copy of the folder the layer of machines of the cloud in `folder` that are made from now on. As check()."""
    check(source, image)
    layers = folder / LAYERS
    layers.mkdir(exist_ok=True)
    copy = layers / str(len(list(layers.glob("[0-9]*"))) + 1)
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(mode=0o755)
    for path in _entries(source):
        place = path.relative_to(source)
        if path.is_symlink():
            (copy / place).symlink_to(path.readlink())
        elif path.is_dir():
            (copy / place).mkdir()
            # What lies above decides: the mode that the user's folder happens to have would be that of the host's /usr.
            there = (image / place).stat() if (image / place).is_dir() else copy.stat()
            os.chown(copy / place, there.st_uid, there.st_gid)
            (copy / place).chmod(stat.S_IMODE(there.st_mode))
        else:
            shutil.copyfile(path, copy / place)
            (copy / place).chmod(path.stat().st_mode & 0o777)
    link = layers / "current.new"
    link.unlink(missing_ok=True)
    link.symlink_to(copy.name)
    link.rename(layers / "current")


def current(folder: Path) -> Path | None:
    """The layer of machines that are made now; None where there is none."""
    link = folder / LAYERS / "current"
    return link.resolve() if link.exists() else None


def _entries(folder: Path) -> Iterator[Path]:
    """All that is in it, what holds others before them; symbolic links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path))


def _problem(source: Path, path: Path, image: Path | None) -> str:
    place = path.relative_to(source)
    there = None if image is None else image / place
    if str(place) in _COVERED:
        return f"{place}: a host has something else mounted there, which would cover it"
    if path.is_symlink():
        target = path.readlink()
        if not target.is_absolute():
            inside = os.path.normpath(place.parent / target)
            if inside.split("/")[0] == "..":
                return f"{place}: a link to {target}, which leads out of the folder"
        elif not _holds(source, target) and not (image is None or _holds(image, target)):
            return f"{place}: a link to {target}, which leads out of the folder: no host has that"
        return f"{place}: a link, and a folder on a host" if there and _is_folder(there) else ""
    if path.is_dir():
        if there is None or not os.path.lexists(there) or _is_folder(there):
            return ""
        what = f"a link to {there.readlink()}; use that place" if there.is_symlink() else "a file"
        return f"{place}: a folder, and on a host {what}"
    if not path.is_file():
        return f"{place}: neither a file, a folder nor a link"
    return f"{place}: a file, and a folder on a host" if there and _is_folder(there) else ""


def _holds(root: Path, target: Path) -> bool:
    """Whether an absolute path leads to something below a root that a host sees as /."""
    return os.path.lexists(root / target.relative_to("/"))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
