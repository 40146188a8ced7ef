#!/bin/sh
# A Prefect worker in a container: it works in a clone of its own, made at the first start, and brought up to date later.
#
#   PEDIGREE_FLOW_…      settings of its flows, docs/settings.md
#   GIT_URL, GIT_BRANCH  the project, and the branch that is built
#   GIT_FOLDER           where the clone is kept, on a volume
#   PREFECT_API_URL      the server
set -eu
: "${GIT_URL:?name the git repository of the project}" "${GIT_FOLDER:?name the folder for the clone}" "${PREFECT_API_URL:?name the Prefect server}"

if [ ! -d "$GIT_FOLDER/.git" ]; then
    rm -rf "$GIT_FOLDER.new"  # of a start that was killed
    git clone --quiet --branch "${GIT_BRANCH:-main}" "$GIT_URL" "$GIT_FOLDER.new"
    mv "$GIT_FOLDER.new" "$GIT_FOLDER"
fi
cd "$GIT_FOLDER"
# What was published from elsewhere; what was committed here and isn't pushed yet keeps the clone as it is.
git pull --quiet --ff-only || echo "worker: the clone stays at $(git rev-parse --short HEAD)" >&2
git config user.name >/dev/null || git config user.name "Pedigree worker"
git config user.email >/dev/null || git config user.email "pedigree@localhost"

prefect work-pool inspect pedigree >/dev/null 2>&1 || prefect work-pool create pedigree --type process
# To load the deployments puts their schedules to sleep: it is done only when there is something new.
mark="$PREFECT_API_URL $(git hash-object prefect.yaml)"
if [ "$(cat .git/deployed 2>/dev/null)" != "$mark" ] || ! prefect deployment inspect build/rebuild >/dev/null 2>&1; then
    prefect --no-prompt deploy --all
    echo "$mark" > .git/deployed
    echo "worker: the schedules are asleep; to wake them: prefect deployment schedule resume --all" >&2
fi
exec prefect worker start --pool pedigree --type process
