#!/usr/bin/env bash
# Ends the demo and removes every trace: its processes, its containers, .demo/.
# Touches nothing that the demo did not make.

set -euo pipefail
# shellcheck source=tests/demo/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

[ -d "$home" ] || exit 0
# Agents first, so that nobody restarts what is removed below.
for name in "${agents[@]}" "${masters[@]}"; do
    if is_alive "$name"; then echo "demo-down: ending $name"; fi
    end "$name" TERM
done
for name in "${agents[@]}"; do
    if [ -x "$bin/skein-agent" ] && [ -d "$home/$name" ]; then "$bin/skein-agent" uninstall --data-dir "$home/$name" >/dev/null || true; fi
done
mapfile -t containers < <(demo_containers --all --quiet)
if [ "${#containers[@]}" -gt 0 ]; then
    echo "demo-down: removing ${#containers[@]} containers"
    docker rm --force "${containers[@]}" >/dev/null
fi
rm -rf "$home"
echo "demo-down: removed $home"
