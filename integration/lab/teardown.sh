# Removes everything a lab run made. Idempotent: the owner, its watcher and the next run's
# janitor may all run it.
#   $1 now|watch   watch waits until standard input ends, that is until the owner is gone
#   $2 run         name of the run
#   $3 dir         directory of the run
#   $4 owner       pid that must not be killed though it may sit in a namespace of the run, or 0
how=$1 run=$2 dir=$3 owner=$4
[ -n "$run" ] && [ -n "$dir" ] || exit 2
[ "$how" = watch ] && cat >/dev/null
[ -d "$dir" ] || exit 0

for file in /run/netns/slab-"$run"-* /run/netns/slab-"$run"; do
	[ -e "$file" ] || continue
	ns=${file##*/}
	tries=0
	# Killing the processes of a host's namespace kills its PID 1, and the kernel takes the rest
	# of the host with it. Killing systemd-nspawn instead would leave the host running.
	while [ $tries -lt 200 ]; do
		pids=$(ip netns pids "$ns" 2>/dev/null | grep -vx "$owner")
		[ -n "$pids" ] || break
		kill -9 $pids 2>/dev/null
		tries=$((tries + 1))
		sleep 0.02
	done
	ip netns del "$ns" 2>/dev/null
done

# The processes of a control group may take a moment to be gone from it.
groups() {
	find /sys/fs/cgroup -depth -type d -path "*/slab-$run-*" 2>/dev/null
}
tries=0
while [ -n "$(groups)" ] && [ $tries -lt 100 ]; do
	groups | while read -r g; do rmdir "$g" 2>/dev/null; done
	tries=$((tries + 1))
	[ -n "$(groups)" ] && sleep 0.05
done

mounted() {
	awk -v d="$dir/" 'index($5, d) == 1 { print $5 }' /proc/self/mountinfo | tac
}
tries=0
while [ -n "$(mounted)" ] && [ $tries -lt 100 ]; do
	mounted | while read -r m; do umount "$m" 2>/dev/null; done
	tries=$((tries + 1))
	[ -n "$(mounted)" ] && sleep 0.05
done
mounted | while read -r m; do umount -l "$m"; done

rm -rf --one-file-system "$dir"
rm -f "$dir.owner"
[ ! -e "$dir" ]
