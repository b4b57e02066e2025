#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of a node in QEMU. It makes of the kernel's machine what the
# kubelet finds on a node, and then runs the commands that come by a port. When it
# fails, the kernel panics, which ends the VM.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

mount --make-rshared /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
# What containers are made of goes to the VM's memory: an overlay takes no other folder
# for its upper one. Logs stay on the disk, where the tests read them.
for folder in /dev/shm /run /tmp /var/lib; do mount -t tmpfs tmpfs "$folder"; done
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
hostname "$(cat /etc/hostname)"
ip link set lo up

while read -r file options; do
	# shellcheck disable=SC2086 # options are words
	busybox insmod "/opt/modules/$file" $options
done </etc/boot/modules

# A line is a number, how many seconds the command may take, and the command as base64;
# the answer is the number, the exit status, and what the command wrote to each output.
port=$(echo /dev/vport*p1)
[ -c "$port" ]
exec 3<>"$port"
while :; do
	# The port ends where nobody holds its other end yet.
	if ! read -r number limit command <&3; then
		sleep 0.1
		continue
	fi
	echo "$command" | base64 -d >/run/command
	status=0
	timeout "$limit" sh /run/command </dev/null >/run/stdout 2>/run/stderr 3>&- || status=$?
	echo "$number $status $(base64 -w0 /run/stdout) $(base64 -w0 /run/stderr)" >&3
done
