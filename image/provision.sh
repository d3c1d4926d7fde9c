#!/bin/bash
# On the machine that becomes the AMI: installs the packages of the named roles, then makes it forget that it ever ran.
# Usage: provision.sh ROLE..., as root, with `provision` and `packages` in the folder that FILES names.
set -euo pipefail
FILES=${FILES:-/tmp}
LIBRARY=/usr/local/lib/apollo

# The base image's own first boot may still be at work on apt.
! command -v cloud-init >/dev/null || cloud-init status --wait >/dev/null

install -d "$LIBRARY/packages"
install -m 0755 "$FILES/provision" "$LIBRARY/provision"
install -m 0644 "$FILES"/packages/*.txt "$LIBRARY/packages/"
"$LIBRARY/provision" "$@"

# A host of this image makes its own identity, and its cloud-init must see a first boot.
! command -v cloud-init >/dev/null || cloud-init clean --logs
rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub
truncate -s 0 /etc/machine-id
# Packer's temporary key, which would let its holder into every host. User-data brings the administrators'.
rm -f /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys
apt-get clean
rm -rf /var/lib/apt/lists/* "$FILES/provision" "$FILES/packages"
