#!/bin/sh
# Runs a command with root's rights over what is its user's own, and with a process table of its own, where the kernel gives that to
# somebody who is not root. The shell in between is process 1, so that the command is an ordinary one.
exec unshare --user --map-current-user --keep-caps --mount --pid --fork --kill-child --mount-proc sh -c '"$0" "$@"; exit $?' "$@"
