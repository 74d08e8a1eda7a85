#!/usr/bin/env bash
# The tests on a real Kubernetes.
#
#   scripts/e2e.sh                     all of them, on a cluster of this machine (e2e/cluster)
#   scripts/e2e.sh cluster_broken      one file of e2e/tests; more arguments go to the test program
#
# With KUBECONFIG set they run on that cluster, into which its owner has loaded the images; it must be marked as one
# for tests. FERRUM_E2E_HELM_ARGS are more arguments for helm, such as --set=images.ferrum.repository=... Else a cluster is started and, unless it ran before, removed at the end.
# E2E_BINARY names a program to put into the images instead of a release build.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=${1:-cluster_*}
shift || true
cluster=e2e/cluster/cluster.py
images=target/images
cargo_test=(cargo test --workspace --features ferrum-e2e/cluster --no-fail-fast)

selected() { # the test files, without the simulated nodes where the cluster is not ours
    for file in e2e/tests/cluster_*.rs; do
        local name
        name=$(basename "$file" .rs)
        # shellcheck disable=SC2053  # a pattern on purpose
        [[ $name == $tests ]] || continue
        if [[ -n ${KUBECONFIG:-} && $name == cluster_scale ]]; then
            printf 'cluster_scale needs the simulated nodes of e2e/cluster: left out\n' >&2
            continue
        fi
        printf -- '--test\n%s\n' "$name"
    done
}
mapfile -t selection < <(selected)
((${#selection[@]})) || { printf 'no file e2e/tests/%s.rs\n' "$tests" >&2; exit 1; }

if [[ -n ${KUBECONFIG:-} ]]; then
    exec "${cargo_test[@]}" "${selection[@]}" -- "$@"
fi

# Kubernetes is built (once) while cargo builds.
programs_log=$(mktemp)
$cluster programs >"$programs_log" 2>&1 &
programs=$!
binary=${E2E_BINARY:-}
if [[ -z $binary ]]; then
    cargo build --release --quiet -p ferrum-cli
    binary=target/release/ferrum
fi
images/build.py --engine none --binary "$binary" --out "$images"
images/build.py --engine none --binary "$binary" --out "$images/next" --tag next engine-cpu  # for a change of the image
scripts/fetch-test-models.py
e2e/openai/venv.sh
"${cargo_test[@]}" "${selection[@]}" --no-run
if ! wait "$programs"; then
    cat "$programs_log" >&2
    exit 1
fi
rm -f "$programs_log"

started=
if ! $cluster status >/dev/null 2>&1; then
    started=yes
    trap '$cluster down' EXIT
fi
$cluster up
$cluster load "$images"/*.tar "$images"/next/*.tar
FERRUM_E2E_BUILD=$(sha256sum "$binary" | cut -c1-16)
export FERRUM_E2E_BUILD
# The nodes' address inside of the cluster's network: pods fetch their weights from there.
hub=192.0.2.10:9000
$cluster exec -- target/debug/e2e-hub $hub "${FERRUM_TEST_MODELS:-$PWD/.cache/models}" engine/models/tests/fixtures &
hub_process=$!
trap 'kill $hub_process 2>/dev/null || true; [[ -z $started ]] || $cluster down' EXIT
export FERRUM_E2E_HUB=http://$hub
FERRUM_BIN=$(realpath "$binary")
export FERRUM_BIN
# Inside the cluster's network nothing else can be reached: everything was built before.
# What was measured is printed.
$cluster exec -- "${cargo_test[@]}" --offline "${selection[@]}" -- --nocapture "$@"
