#!/usr/bin/env bash
# Makes this machine able to run Skein's tests and demo: Docker's packages, a
# Docker daemon that answers, and the sample images.
#
# Idempotent, callable from any directory, one line for each thing it does and
# silent when there is nothing to do. It never stops, restarts or reconfigures
# a daemon that is already there.
#
#   tests/setup.sh              everything
#   tests/setup.sh docker       packages and daemon only
#   tests/setup.sh images       sample images only (needs a daemon)
#   tests/setup.sh etcd         the etcd the benches compare with, unpacked under
#                               $CARGO_TARGET_DIR/tools and never started here
#   tests/setup.sh rivals       HAProxy, nginx and wrk, installed when root and told about when not; their
#                               services are not started
#
# Read from the environment:
#   SKEIN_DOCKERD_LOG    log of a daemon started here  (/var/log/skein-dockerd.log)
#   SKEIN_DOCKERD_FLAGS  flags for a daemon started here, instead of finding out
#   SKEIN_SETUP_WAIT     seconds to wait for the daemon (60)
#   CARGO_TARGET_DIR     where the sample is compiled   (target)

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# Debian's dockerd, iptables and containerd live in sbin, which a user's PATH lacks.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

log_file="${SKEIN_DOCKERD_LOG:-/var/log/skein-dockerd.log}"
wait_seconds="${SKEIN_SETUP_WAIT:-60}"
image=skein-sample

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }
target_folder() { (cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}"); }

# --- system packages -------------------------------------------------------

# Debian 12's docker.io brings client and daemon, Debian 13 splits the client off.
missing_packages() {
    if ! have docker; then
        if apt-cache show docker-cli >/dev/null 2>&1; then echo docker-cli; else echo docker.io; fi
    fi
    if ! have dockerd && ! docker_answers; then echo docker.io; fi
    if ! have curl; then echo curl; fi
    if ! have jq; then echo jq; fi
    if ! have ip && ! docker_answers; then echo iproute2; fi
    if ! have cc; then echo gcc libc6-dev; fi
}

ensure_packages() {
    local wanted
    wanted="$(missing_packages | tr ' ' '\n' | sort -u | tr '\n' ' ')"
    [ -n "${wanted// /}" ] || return 0
    is_root || die "please install: $wanted(for example: sudo apt-get install $wanted)"
    have apt-get || die "please install: $wanted(no apt-get here)"
    say "updating the package lists"
    apt_quietly update
    # The lists may only now know which package holds the client.
    wanted="$(missing_packages | tr ' ' '\n' | sort -u | tr '\n' ' ')"
    say "installing $wanted"
    # shellcheck disable=SC2086
    apt_quietly install -y --no-install-recommends $wanted
    hash -r
    have docker || apt_quietly install -y --no-install-recommends docker-cli
}

apt_quietly() {
    local output
    output="$(mktemp)"
    if ! DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >"$output" 2>&1 </dev/null 9>&-; then
        tail -n 20 "$output" >&2
        rm -f "$output"
        die "apt-get $1 failed, see above"
    fi
    rm -f "$output"
}

# --- the daemon ------------------------------------------------------------

docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# A client newer than the daemon can refuse to talk, naming the version the daemon
# speaks; a version asked for explicitly is used as it is.
agree_on_api_version() {
    docker_answers && return 0
    local said version
    said="$(docker version 2>&1 || true)"
    version="$(sed -nE 's/.*(maximum|Maximum) supported API version is ([0-9]+\.[0-9]+).*/\2/p' <<<"$said" | head -n 1)"
    [ -n "$version" ] || return 1
    export DOCKER_API_VERSION="$version"
    docker_answers || return 1
    say "the docker client is newer than the daemon: use DOCKER_API_VERSION=$version"
}

ensure_daemon() {
    agree_on_api_version && return 0
    local host="${DOCKER_HOST:-unix:///var/run/docker.sock}"
    [ "$host" = unix:///var/run/docker.sock ] \
        || die "no Docker daemon answers at DOCKER_HOST=$host: start it, or unset DOCKER_HOST"
    # Not piped: the client's failure would be the pipe's.
    if grep -qi 'permission denied' <<<"$(docker version 2>&1)"; then
        die "no permission for /var/run/docker.sock: run as root or as a member of the group docker"
    fi
    is_root || die "no Docker daemon answers: start it (for example: sudo systemctl start docker)"
    if [ -d /run/systemd/system ]; then
        say "starting docker.service"
        systemctl start docker || die "docker.service does not start: see journalctl -u docker"
        wait_for_daemon "" && return 0
        die "docker.service is started but no daemon answers: see journalctl -u docker"
    fi
    have dockerd || die "no Docker daemon answers and dockerd is not installed"
    # The package's own start script, or somebody, may have just started one.
    if pidof dockerd >/dev/null; then
        wait_for_daemon "" && return 0
        die "a dockerd runs (pid $(pidof dockerd)) but does not answer: end it, or see its log"
    fi
    ensure_cgroups
    start_daemon
}

# Containers need at least one cgroup hierarchy; a bare sandbox may have none mounted.
ensure_cgroups() {
    grep -qE ' /sys/fs/cgroup(/[^ ]*)? cgroup2? ' /proc/self/mounts && return 0
    say "mounting cgroup2 at /sys/fs/cgroup"
    mkdir -p /sys/fs/cgroup
    mount -t cgroup2 none /sys/fs/cgroup || die "cannot mount cgroup2 at /sys/fs/cgroup: run on the host or in a privileged container"
}

# Tries the daemon as it is, and then without what small kernels lack.
start_daemon() {
    local flags
    if [ -n "${SKEIN_DOCKERD_FLAGS+set}" ]; then
        try_daemon "$SKEIN_DOCKERD_FLAGS" && return 0
    else
        for flags in "" "--iptables=false --ip6tables=false" "--iptables=false --ip6tables=false --storage-driver=vfs"; do
            try_daemon "$flags" && return 0
        done
    fi
    tail -n 15 "$log_file" >&2
    die "dockerd does not start: its last lines are above, the rest in $log_file"
}

try_daemon() {
    local flags="$1" pid
    remove_stale_pid_file /var/run/docker.pid dockerd
    remove_stale_pid_file /var/run/docker/containerd/containerd.pid containerd
    mkdir -p "$(dirname "$log_file")"
    rm -f "$log_file.pid"
    say "starting dockerd${flags:+ $flags} (log: $log_file)"
    # A session and log of its own: it outlives this script and its terminal.
    # shellcheck disable=SC2016,SC2086,SC2094
    setsid --fork bash -c 'echo "$$" >"$1.pid"; shift; exec dockerd "$@"' _ "$log_file" $flags >>"$log_file" 2>&1 </dev/null 9>&-
    until [ -s "$log_file.pid" ]; do sleep 0.02; done
    pid="$(cat "$log_file.pid")"
    wait_for_daemon "$pid" && fix_bridge_address && return 0
    # Its containerd goes with it; the next try needs the socket and the state folder.
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do [ -d "/proc/$pid" ] || return 1; sleep 0.1; done
    die "dockerd (pid $pid) neither answers nor ends: see $log_file"
}

# Docker 20.10 on a new kernel leaves docker0 with the lowest address of its ports: whenever that
# port goes, containers that talk to the host fall silent until their ARP entry has run out.
fix_bridge_address() {
    local bridge=/sys/class/net/docker0
    # 3 = set by somebody, so it stays (Documentation/ABI/testing/sysfs-class-net).
    if [ ! -e "$bridge" ] || [ "$(cat "$bridge/addr_assign_type")" = 3 ]; then return 0; fi
    say "giving docker0 an address that stays"
    ip link set dev docker0 address 02:42:ac:11:00:01
}

# A daemon that was killed leaves a pid file; when the number is in use again, a new daemon
# takes the stranger for its predecessor and refuses to start.
remove_stale_pid_file() {
    local file="$1" name="$2"
    if [ -f "$file" ] && [ "$(cat "/proc/$(cat "$file")/comm" 2>/dev/null)" != "$name" ]; then rm -f "$file"; fi
}

# wait_for_daemon PID: true once it answers, false after the wait or as soon as PID is gone.
wait_for_daemon() {
    local pid="$1" deadline=$((SECONDS + wait_seconds))
    while [ "$SECONDS" -lt "$deadline" ]; do
        if agree_on_api_version; then
            say "dockerd $(docker version --format '{{.Server.Version}}') answers ($(docker info --format '{{.Driver}}, cgroup v{{.CgroupVersion}}'))"
            return 0
        fi
        [ -z "$pid" ] || [ -d "/proc/$pid" ] || return 1
        sleep 0.2
    done
    return 1
}

# --- the sample images -----------------------------------------------------

ensure_images() {
    [ -f "$root/tests/sample/Dockerfile" ] || return 0
    have cargo || die "please install Rust: https://rustup.rs"
    local binary digest tag stale=()
    binary="$(build_sample)"
    digest="$(cat "$binary" "$root/tests/sample/Dockerfile" | sha256sum | cut -c1-16)"
    for tag in latest v1 v2; do
        [ "$(docker image inspect --format '{{index .Config.Labels "io.skein.digest"}}' "$image:$tag" 2>/dev/null || true)" = "$digest" ] || stale+=("$tag")
    done
    [ "${#stale[@]}" -gt 0 ] || return 0
    say "building the images $image:{$(IFS=,; echo "${stale[*]}")}"
    local context
    context="$(mktemp -d)"
    cp "$binary" "$root/tests/sample/Dockerfile" "$context/"
    for tag in "${stale[@]}"; do build_image "$context" "$tag" "$digest"; done
    rm -rf "$context"
    docker image prune --force --filter label=io.skein.image=sample >/dev/null
}

# Static, so that it runs in an image made from nothing. A target folder of its own
# kind (--target) keeps the flag from touching the workspace's own artefacts.
build_sample() {
    local triple target output
    triple="$(rustc -vV | sed -n 's/^host: //p')"
    target="$(target_folder)"
    output="$(mktemp)"
    if ! (cd "$root" && CARGO_TARGET_DIR="$target" cargo rustc --quiet ${CI:+--locked} --release -p skein-sample --target "$triple" --bin skein-sample -- -C target-feature=+crt-static) >"$output" 2>&1; then
        cat "$output" >&2
        rm -f "$output"
        die "the sample server does not compile"
    fi
    rm -f "$output"
    echo "$target/$triple/release/skein-sample"
}

# The classic builder: Docker 20.10 has it built in, BuildKit needs a plugin.
build_image() {
    local context="$1" tag="$2" digest="$3" output
    output="$(mktemp)"
    if ! DOCKER_BUILDKIT=0 docker build --network none --tag "$image:$tag" --build-arg "VERSION=$tag" --build-arg "DIGEST=$digest" "$context" >"$output" 2>&1; then
        if ! import_image "$context" "$tag" "$digest" >>"$output" 2>&1; then
            tail -n 20 "$output" >&2
            rm -f "$output"
            die "cannot build the image $image:$tag"
        fi
    fi
    rm -f "$output"
}

# Without any builder an archive becomes the same image.
import_image() {
    tar -C "$1" --mode=755 -c skein-sample | docker import \
        --change 'ENTRYPOINT ["/skein-sample"]' --change 'EXPOSE 8080' --change "ENV VERSION=$2" \
        --change 'LABEL io.skein.image=sample' --change "LABEL io.skein.digest=$3" - "$image:$2"
}

# --- what only the benches want --------------------------------------------

# Unpacked, not installed: Debian's package would start a service.
ensure_etcd() {
    local folder package
    folder="$(target_folder)/tools"
    if have etcd || [ -x "$folder/usr/bin/etcd" ]; then return 0; fi
    have apt-get || die "please install etcd (no apt-get here)"
    say "unpacking etcd-server into $folder"
    mkdir -p "$folder"
    if ! (cd "$folder" && apt-get download etcd-server >/dev/null 2>&1); then
        is_root || die "apt-get knows no etcd-server: sudo apt-get update"
        apt_quietly update
        (cd "$folder" && apt-get download etcd-server >/dev/null 2>&1) || die "apt-get cannot download etcd-server"
    fi
    for package in "$folder"/etcd-server_*.deb; do dpkg -x "$package" "$folder"; done
    rm -f "$folder"/etcd-server_*.deb
}

# Installed without their services: the benches start what they measure.
ensure_rivals() {
    local program missing=()
    for program in haproxy nginx wrk; do have "$program" || missing+=("$program"); done
    if [ ${#missing[@]} = 0 ]; then return 0; fi
    if ! is_root || ! have apt-get; then
        say "not installed, so not measured beside: ${missing[*]}"
        return 0
    fi
    say "installing ${missing[*]}"
    apt_quietly update
    local policy=/usr/sbin/policy-rc.d own=no
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && own=yes
    fi
    apt_quietly install -y --no-install-recommends "${missing[@]}" || say "some could not be installed"
    if [ "$own" = yes ]; then rm -f "$policy"; fi
}

# --- main ------------------------------------------------------------------

# Two runs at once would start two daemons: the second waits for the first. Whatever outlives
# this script must not inherit the lock (9>&-).
lock="/tmp/skein-setup.$(id -u).lock"
if have flock; then
    exec 9>"$lock"
    flock -w 600 9 || die "another setup.sh holds $lock for 10 minutes"
fi

case "${1:-all}" in
    all) ensure_packages; ensure_daemon; ensure_images ;;
    docker) ensure_packages; ensure_daemon ;;
    images) ensure_images ;;
    etcd) ensure_etcd ;;
    rivals) ensure_rivals ;;
    *) echo "usage: tests/setup.sh [all|docker|images|etcd|rivals]" >&2; exit 64 ;;
esac
