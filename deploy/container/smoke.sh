#!/usr/bin/env bash
# Builds the image with buildah and runs it, without a container engine: in a chroot, which needs root. Takes the small
# model from the data directory, or MODEL, a GGUF file.
#
#   make wheel && sudo deploy/container/base.sh && sudo deploy/container/smoke.sh
#
# BASE is the image to build on. BUILD has further options of `buildah build`, such as a volume with certificates.
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
BASE=${BASE:-localhost/debian-base} IMAGE=${IMAGE:-localhost/quern}
DATA=${XDG_DATA_HOME:-$HOME/.local/share}/quern
MODEL=${MODEL:-$(ls "$DATA"/models/qwen2.5-coder-0.5b/*.gguf)}
PORT=$(free_port) URL=http://127.0.0.1:$PORT
export BUILDAH_ISOLATION=chroot

# shellcheck disable=SC2086
check "the image is built" buildah build ${BUILD:-} --quiet --format docker --build-arg "BASE=$BASE" --tag "$IMAGE" \
    --file "$ROOT/deploy/container/Containerfile" "$ROOT"
container=$(buildah from "$IMAGE")
trap 'finish; buildah rm "$container" >/dev/null' EXIT
mkdir -m 0777 "$WORK/data"
inside() { # the image's own entry point, user and environment; the host's network
    buildah run --user 10001 --env "QUERN_SERVER__PORT=$PORT" --volume "$WORK/data:/var/lib/quern" \
        --volume "$MODEL:/srv/models/$(basename "$MODEL"):ro" "$container" -- quern "$@"
}
key=$(inside keys create smoke)
export QUERN_API_KEY=$key
export -f inside
export PORT WORK MODEL container
start quern bash -c "inside serve --model '/srv/models/$(basename "$MODEL")'"
wait_for 300 "the model is loaded" ready "$URL"
answers "$URL"
check "without a key nobody comes in" test "$(curl --silent --output /dev/null --write-out '%{http_code}' "$URL/v1/models")" = 401
verdict
