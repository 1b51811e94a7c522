#!/usr/bin/env bash
# Builds what is measured (release, once) and measures it: make bench [ARGS='writes --quick'].
#
#   tests/bench.sh [writes|instances|failover|hollow|scale|memory|balance|continuity]... [--quick] [--rounds N] [--kills N]
#
# Needs a Docker daemon (tests/setup.sh); unpacks Debian's etcd when it is compared with.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

# A leader holds a connection for every agent.
ulimit -n "$(ulimit -Hn)"

packages=(-p skein-master -p skein-agent -p skein-cli -p skein-tests)
"${CARGO:-cargo}" build --quiet ${CI:+--locked} --release "${packages[@]}" --bins

case " $* " in
    *" writes "*) tests/setup.sh etcd ;;
    *" instances "* | *" failover "* | *" hollow "* | *" scale "* | *" memory "* | *" balance "* | *" continuity "*) ;;
    *) tests/setup.sh etcd ;;
esac

# Beside whom the balancer is measured; without them their columns stay empty.
case " $* " in
    *" balance "*) tests/setup.sh rivals ;;
    *" writes "* | *" instances "* | *" failover "* | *" hollow "* | *" scale "* | *" memory "* | *" continuity "*) ;;
    *) tests/setup.sh rivals ;;
esac

PATH="$target/tools/usr/bin:$PATH" exec "$target/release/bench" "$@"
