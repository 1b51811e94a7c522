#!/usr/bin/env bash
# Shows Skein at work on this machine: three masters and three agents on one Docker daemon run
# a service from a Compose file and survive the death of the leader, of a container and of an
# agent. Every claim is a check; the exit code is 0 only if all of them were true. Leaves the
# cluster running and says what to type next.
#
# SKEIN_DEMO_PORT=7070  first of the ports of the masters (see common.sh)

set -euo pipefail
# shellcheck source=tests/demo/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
compose=tests/demo/compose.yaml
failed=0

# --- printing --------------------------------------------------------------

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' green='' red='' dim='' plain=''; fi
step() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
# show COMMAND...: a command as the reader would type it, with its output.
show() { printf '%s   $ %s%s\n' "$dim" "$*" "$plain"; "$@" 2>&1 | sed 's/^/   /'; }
yes() { printf ' %s✓%s %s\n' "$green" "$plain" "$*"; }
no() { printf ' %s✗%s %s\n' "$red" "$plain" "$*"; failed=$((failed + 1)); }
# verify WHAT COMMAND...: every claim goes through here.
verify() { local what="$1"; shift; if "$@"; then yes "$what"; else no "$what"; fi; }

stop_with() {
    printf '\n%sdemo: %s%s\n' "$red" "$*" "$plain" >&2
    [ ! -d "$home/logs" ] || printf 'demo: logs in %s, make demo-down removes everything\n' "$home/logs" >&2
    exit 1
}

now_ms() { echo $(($(date +%s%N) / 1000000)); }
seconds() { printf '%d.%02d s' $(($1 / 1000)) $(($1 % 1000 / 10)); }
# within SECONDS COMMAND...: asks until it is true, false when the time is over; sets took_ms.
within() {
    local start limit
    start="$(now_ms)"
    limit=$(($1 * 1000))
    shift
    while true; do
        if "$@"; then took_ms=$(($(now_ms) - start)); return 0; fi
        took_ms=$(($(now_ms) - start))
        [ "$took_ms" -lt "$limit" ] || return 1
        sleep 0.02
    done
}

# --- what the cluster says -------------------------------------------------

skein() { "$bin/skein" "$@"; }
json() { skein "$@" -o json 2>/dev/null || true; }
leader() { json cluster status | jq -r '.leader // ""'; }
has_leader() { [ -n "$(leader)" ]; }
members() { json cluster status | jq -r '.members[]?.name' | sort | xargs; }
nodes_ready() { [ "$(json node ls | jq '[.[] | select(.liveness == "LIVENESS_READY")] | length')" = "$1" ]; }
# The instances that shall run and are healthy.
instances() { json service ps "$service" | jq -c '.[] | select(.desired == "DESIRED_RUN" and .observed.phase == "PHASE_READY")'; }
# Masters and Docker agree: $1 healthy instances, and exactly their containers run.
ready() {
    local said
    said="$(instances | jq -r .observed.containerId | sort)"
    [ "$(wc -l <<<"$said")" = "$1" ] && [ "$said" = "$(containers | cut -d ' ' -f 1)" ]
}
instance_of_container() { instances | jq -rc --arg id "$1" 'select(.observed.containerId == $id)'; }

# --- what Docker says ------------------------------------------------------

# "container id, start, pid" of each that runs: a restart changes the line.
containers() {
    local ids
    mapfile -t ids < <(demo_containers --quiet)
    [ "${#ids[@]}" -eq 0 ] || docker inspect --format '{{.Id}} {{.State.StartedAt}} {{.State.Pid}}' "${ids[@]}" | sort
}
# Every container of $1 still runs, never restarted.
untouched() { [ -n "$1" ] && [ -z "$(comm -23 <(echo "$1") <(containers))" ]; }
# The container $1 is gone, and $2 run.
count_without() { local now; now="$(containers)"; [ "$(wc -l <<<"$now")" = "$2" ] && ! grep -q "^$1" <<<"$now"; }

# --- the processes ---------------------------------------------------------

start_master() {
    local name="$1" peers=() peer
    for peer in "${masters[@]}"; do peers+=("$peer=$(cluster_address "$peer")"); done
    launch "$name" "$bin/skein-master" run --name "$name" --data-dir "$home/$name" \
        --api-address "$(api_address "$name")" --cluster-address "$(cluster_address "$name")" \
        --initial-masters "$(IFS=,; echo "${peers[*]}")"
}

start_agent() {
    launch "$1" "$bin/skein-agent" run --name "$1" --data-dir "$home/$1" --masters "$SKEIN_MASTERS" \
        --advertise-address 127.0.0.1 --ingress-address "$(ingress_of "$1")" \
        --dns-address "$(name_server_of "$1")" --label "zone=$(zone_of "$1")" --docker-host "$docker_host"
}

# --- the steps -------------------------------------------------------------

check_that_nothing_is_in_the_way() {
    local name address
    for name in "${masters[@]}" "${agents[@]}"; do
        if is_alive "$name"; then stop_with "a demo is running already ($name): make demo-down ends it"; fi
    done
    if [ -d "$home" ]; then tests/demo/down.sh; fi
    for name in "${masters[@]}"; do
        for address in "$(api_address "$name")" "$(cluster_address "$name")"; do
            if (exec 3<>"/dev/tcp/${address/://}") 2>/dev/null; then
                stop_with "$address is taken by another program: end it, or choose other ports with SKEIN_DEMO_PORT=..."
            fi
        done
    done
}

build() {
    step "Building skein-master, skein-agent and skein"
    # As `make test` builds: cargo would compile some crates again for other targets.
    cargo build --workspace --bins --tests || stop_with "it does not compile"
    yes "$bin"
}

form_cluster() {
    step "Three masters form a cluster"
    local name
    for name in "${masters[@]}"; do start_master "$name"; done
    within 20 has_leader || stop_with "no leader after 20 s"
    yes "$(leader) leads after $(seconds "$took_ms")"
    json cluster status | jq -re '.clusterId' >"$home/cluster-id" || stop_with "the cluster has no id"
    show skein cluster status
}

join_agents() {
    step "Three agents join"
    local name
    for name in "${agents[@]}"; do start_agent "$name"; done
    within 20 nodes_ready 3 || stop_with "the nodes are not ready after 20 s"
    yes "3 nodes ready after $(seconds "$took_ms")"
    show skein node ls
}

deploy() {
    step "Deploying a Compose file: web, 3 replicas"
    local start
    start="$(now_ms)"
    show env WEB_PORT="$web_port" "$bin/skein" stack deploy -c "$compose" "$stack" || no "the deployment was accepted"
    within 30 ready 3 || stop_with "the service does not run after 30 s"
    yes "3 instances healthy $(seconds $(($(now_ms) - start))) after the command"
    show skein service ps "$service"
}

ask_everyone() {
    step "Asking every instance who it is"
    local endpoint answer hosts=()
    while read -r endpoint; do
        answer="$(curl --silent --max-time 3 "http://$endpoint/" || true)"
        printf '   %-22s %s\n' "$endpoint" "${answer:-no answer}"
        if [ "$(jq -r '.name' <<<"$answer" 2>/dev/null)" = web ]; then hosts+=("$(jq -r .hostname <<<"$answer")"); fi
    done < <(instances | jq -r '.endpoints[0] | "\(.address):\(.port)"')
    verify "3 different containers answer" [ "$(printf '%s\n' "${hosts[@]}" | sort -u | wc -l)" = 3 ]
    verify "on 3 different nodes" [ "$(instances | jq -r .nodeName | sort -u | wc -l)" = 3 ]
}

# What $1 requests to the published port of node $2 brought: "count host" a line.
shares() {
    local hosts
    hosts="$(for _ in $(seq "$1"); do curl --silent --fail --max-time 3 "http://$(ingress_of "$2"):$web_port/" | jq -r .hostname; done)"
    sort <<<"$hosts" | uniq -c | sed 's/^ */   /'
}

ask_published_port() {
    step "Asking the published port ($web_port) of every node, 30 times each"
    local name share
    for name in "${agents[@]}"; do
        within 5 curl --silent --fail --max-time 3 --output /dev/null "http://$(ingress_of "$name"):$web_port/" || true
        share="$(shares 30 "$name")"
        printf '   %s, %s:%s\n%s\n' "$name" "$(ingress_of "$name")" "$web_port" "$share"
        verify "30 answers, 10 from each of 3 instances" [ "$(awk '{print $1}' <<<"$share" | xargs)" = "10 10 10" ]
    done
}

ask_by_name() {
    step "Asking for it by name from within a container, 9 times"
    local hosts
    show skein exec "$service.1" /skein-sample resolve web
    hosts="$(for _ in $(seq 9); do skein exec "$service.1" /skein-sample get http://web:8080/ | jq -r .hostname; done | sort | uniq -c)"
    printf '%s\n' "$hosts"
    # The agents of one machine share the service's address, and each shares out on its own.
    verify "9 answers" [ "$(awk '{sum += $1} END {print sum}' <<<"$hosts")" = 9 ]
}

scale_up() {
    step "Scaling to 5"
    local before start
    before="$(containers)"
    start="$(now_ms)"
    show skein service scale "$service=5"
    verify "5 instances healthy" within 30 ready 5
    yes "$(seconds $(($(now_ms) - start))) after the command"
    verify "the first 3 containers were not touched" untouched "$before"
}

try_write() { skein service scale "$service=6" >/dev/null 2>&1; }

kill_leader() {
    step "Killing the leader (kill -9) and writing until a write succeeds"
    local before old start
    before="$(containers)"
    old="$(leader)"
    start="$(now_ms)"
    end "$old" KILL
    verify "a write succeeds without $old" within 20 try_write
    yes "$(leader) leads; $(seconds $(($(now_ms) - start))) from the kill to the acknowledged write"
    verify "the write took effect: 6 instances healthy" within 30 ready 6
    verify "no container was restarted" untouched "$before"
    start_master "$old"
    verify "$old is back and up to date" within 20 caught_up "$old"
    show skein cluster status
}

# The member itself says that it has applied what the leader has.
caught_up() {
    local index
    index="$(json cluster status | jq -r .appliedIndex)"
    [ -n "$index" ] && [ "$(json --master "$(api_address "$1")" cluster status | jq --argjson index "$index" '(.appliedIndex | tonumber) >= ($index | tonumber)')" = true ]
}

kill_container() {
    step "Killing a container"
    local before victim instance start
    before="$(containers)"
    victim="$(head -n 1 <<<"$before" | cut -d ' ' -f 1)"
    instance="$(instance_of_container "$victim" | jq -r .id)"
    start="$(now_ms)"
    docker kill "$victim" >/dev/null
    verify "its replacement runs" within 20 count_without "$victim" 6
    yes "$(seconds $(($(now_ms) - start))) after the kill"
    verify "it is healthy, 6 of 6" within 20 ready 6
    verify "same instance, next attempt" [ "$(json service ps "$service" | jq -r --arg id "$instance" '.[] | select(.id == $id) | .observed.attempt')" = 2 ]
    verify "the other 5 containers were not touched" untouched "$(tail -n +2 <<<"$before")"
}

kill_agent() {
    step "Killing an agent (kill -9) and starting it again"
    local before victim endpoint
    before="$(containers)"
    endpoint="$(instances | jq -r 'select(.nodeName == "n1") | .endpoints[0] | "\(.address):\(.port)"' | head -n 1)"
    end n1 KILL
    verify "n1's containers run on without their agent" untouched "$before"
    verify "and answer ($endpoint)" curl --silent --fail --max-time 3 --output /dev/null "http://$endpoint/"
    start_agent n1
    # Only an agent that knows its containers again replaces one of them.
    victim="$(instances | jq -r 'select(.nodeName == "n1") | .observed.containerId' | head -n 1)"
    docker kill "$victim" >/dev/null
    verify "n1 has adopted them: a container killed now is replaced" within 20 count_without "$victim" 6
    verify "6 of 6 are healthy" within 20 ready 6
    verify "all others were not touched" untouched "$(grep -v "^$victim" <<<"$before")"
}

look_around() {
    step "Looking around"
    show skein service ls
    show skein service ps "$service"
    show skein node ls
    show skein cluster status
    show skein events
}

say_goodbye() {
    printf '\n%sThe cluster goes on running. Try:%s\n' "$bold" "$plain"
    cat <<END
   export SKEIN_MASTERS=$SKEIN_MASTERS PATH="$bin:\$PATH"
   skein service ps $service --watch
   skein service scale $service=9
   skein node drain n2
   skein logs -f $service
   skein events -w
   skein top
   make demo-down        # removes every trace
END
}

export SKEIN_MASTERS
SKEIN_MASTERS="$(all_api_addresses)"
docker_host="${DOCKER_HOST:-unix:///var/run/docker.sock}"
for tool in docker jq curl; do command -v "$tool" >/dev/null || stop_with "$tool is missing: make setup installs it"; done

check_that_nothing_is_in_the_way
build
mkdir -p "$home/pids" "$home/logs"
form_cluster
join_agents
deploy
ask_everyone
ask_published_port
ask_by_name
scale_up
kill_leader
kill_container
kill_agent
look_around
say_goodbye
if [ "$failed" -gt 0 ]; then printf '\n%s%d checks failed%s (logs in %s)\n' "$red" "$failed" "$plain" "$home/logs"; exit 1; fi
printf '\n%sEverything shown above was checked and true.%s\n' "$green" "$plain"
