#!/bin/sh
# Brings /project, where the pipeline runs, to the commit of the clone that is mounted at /source.
set -eu

if [ ! -d /project/.git ]; then
    git clone --no-hardlinks /source /project
fi
cd /project
git fetch --quiet /source HEAD
if ! git merge --quiet --ff-only FETCH_HEAD; then
    echo "/project holds commits or changes that the mounted clone lacks (ingest --commit makes some)." >&2
    echo "Bring them into the clone, or merge the clone's in /project by hand; then start again." >&2
    exit 1
fi
# Beside Git: which store is this installation's is nothing that the repository knows.
dvc remote add --quiet --force --local storage s3://dvc
dvc remote modify --quiet --local storage endpointurl "$AWS_ENDPOINT_URL_S3"
echo "/project is at $(git rev-parse --short HEAD)"
