# shellcheck shell=bash disable=SC2034,SC2016
# What demo.sh and down.sh share: where the demo lives and which processes are its own.
# Sourced, not run. Only processes with a pid file in .demo/pids whose command line is the
# one written there are ever signalled.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
home="$root/.demo"
bin="$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")/debug"
masters=(m1 m2 m3)
agents=(n1 n2 n3)
stack=demo
service=demo_web
base_port="${SKEIN_DEMO_PORT:-7070}"

# m1: 7070 and 7071, m2: 7080 and 7081, m3: 7090 and 7091.
api_address() { echo "127.0.0.1:$((base_port + 10 * (${1#m} - 1)))"; }
cluster_address() { echo "127.0.0.1:$((base_port + 10 * (${1#m} - 1) + 1))"; }
all_api_addresses() { local name list=(); for name in "${masters[@]}"; do list+=("$(api_address "$name")"); done; (IFS=,; echo "${list[*]}"); }
# Every agent listens on published ports at an address of its own: 127.0.0.11, .12, .13.
ingress_of() { echo "127.0.0.1${1#n}"; }
# And has a name server at one that containers reach: 10.253.27.1, .2, .3.
name_server_of() { echo "10.253.$((base_port >> 8)).${1#n}"; }
web_port=$((base_port + 30))
zone_of() { case "$1" in n1) echo a ;; n2) echo b ;; *) echo c ;; esac; }

pid_of() { cat "$home/pids/$1" 2>/dev/null || true; }

# True while the process NAME was started as is still the one with its pid.
is_alive() {
    local pid command
    pid="$(pid_of "$1")"
    [ -n "$pid" ] || return 1
    command="$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" || true)"
    [[ "$command" = *" run --name $1 "*"$home/"* ]]
}

# end NAME SIGNAL: sends the signal and waits until the process is gone.
end() {
    local pid
    pid="$(pid_of "$1")"
    if is_alive "$1"; then
        kill -s "$2" "$pid" 2>/dev/null || true
        for _ in $(seq 200); do is_alive "$1" || break; sleep 0.05; done
        if is_alive "$1"; then kill -s KILL "$pid" 2>/dev/null || true; fi
    fi
    rm -f "$home/pids/$1"
}

# A command in a session of its own, with a log and a pid file: it outlives this script.
launch() {
    local name="$1"
    shift
    setsid --fork bash -c 'echo "$$" >"$1"; shift; exec "$@"' _ "$home/pids/$name" "$@" >>"$home/logs/$name.log" 2>&1 </dev/null
}

demo_containers() {
    local cluster
    cluster="$(cat "$home/cluster-id" 2>/dev/null || true)"
    [ -z "$cluster" ] || docker ps --no-trunc --filter "label=io.skein.cluster=$cluster" "$@"
}

# A client newer than the daemon may have to be told which version to speak (see setup.sh).
if ! docker version >/dev/null 2>&1; then
    version="$(docker version 2>&1 | sed -nE 's/.*[Mm]aximum supported API version is ([0-9.]+[0-9]).*/\1/p' | head -n 1)"
    [ -z "$version" ] || export DOCKER_API_VERSION="$version"
fi
