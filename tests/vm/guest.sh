#!/bin/bash
# Run in the guest: the scenario, then its status, which the host waits for.
cd /opt/gatewatch || exit 1
./scenario.sh
echo "GUEST STATUS $?" > /dev/ttyS2
sync
