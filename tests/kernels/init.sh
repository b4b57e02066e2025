#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first process of the VM. A step that fails ends it, and that is a kernel
# panic, which the machine outside takes for a failure.
set -eu

/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /etc
/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
# shellcheck source=/dev/null # made for each boot
. /weir/settings

# As systemd leaves it.
mount --make-rshared /
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
ln -sf /proc/self/fd /dev/fd
for folder in /dev/shm /tmp /run; do mount -t tmpfs tmpfs "$folder"; done
chmod 1777 /dev/shm /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
echo root:x:0:0:root:/root:/bin/sh >/etc/passwd
echo root:x:0: >/etc/group
echo 127.0.0.1 localhost >/etc/hosts
hostname weir
ip link set lo up

while read -r file options; do
	# shellcheck disable=SC2086 # options are words
	insmod "/weir/modules/$file" $options
done </weir/modules/order

if [ "$MODE" = shell ]; then
	echo "The tests and their folders are listed in /weir/tests; they take -test.v -test.run '$RUN'."
	setsid cttyhack sh || true
	reboot -f
fi

say() {
	# A test that stopped in the middle of a line must not hide this one.
	printf '\n%s %s\n' "$TOKEN" "$*"
}

stty -F /dev/ttyS1 raw
exec >/dev/ttyS1 2>&1
say kernel "$(uname -r)"
number=0
while read -r binary folder; do
	say start "$number"
	status=0
	(cd "$folder" && exec "$binary" -test.v=test2json -test.timeout="$TIMEOUT" -test.run="$RUN") </dev/null || status=$?
	say exit "$number" "$status"
	number=$((number + 1))
done </weir/tests
say "done"
# The last close of a terminal waits until all of it was sent.
exec >/dev/console 2>&1
reboot -f
