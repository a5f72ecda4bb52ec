#!/bin/bash
# Run in a guest without a system: the scenarios that were chosen, then what a locked down kernel allows.
set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Some scenarios hold thousands of sockets.
ulimit -n 20000
. ./common.sh
./gatewatch doctor --color never
knows_kernel ./gatewatch
mapfile -t filters < filters
run_scenarios "${filters[@]}"
# Some kernels have no lockdown.
[ ! -e /sys/kernel/security/lockdown ] || lock_down
exit $failed
