#!/bin/sh
# The flows of prefect.yaml as deployments to work pools of one kind: process or kubernetes. Run again after a change.
set -eu

kind=${DEPLOY_KIND:?"process or kubernetes"}
cd "${PROJECT_FOLDER:-/project}"
if [ "$kind" = process ]; then
    # Kubernetes' workers make theirs, with the template of their jobs.
    for pool in cpu gpu; do
        prefect --no-prompt work-pool inspect "$pool" >/dev/null 2>&1 ||
            prefect --no-prompt work-pool create "$pool" --type process
    done
fi
CGM2NET_PROJECT=$(pwd) prefect --no-prompt deploy --name "*-$kind"
python -m pipelines automate
