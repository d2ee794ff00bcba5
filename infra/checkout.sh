#!/bin/sh
# Brings the folder where the pipeline runs, /project, to the commit of the repository PROJECT_SOURCE: an address, or a clone
# that is mounted.
set -eu

source=${PROJECT_SOURCE:?"say which repository: a path or an address"}
project=${PROJECT_FOLDER:-/project}

if [ ! -d "$project/.git" ]; then
    git clone --no-hardlinks "$source" "$project"
fi
cd "$project"
git fetch --quiet "$source" HEAD
if ! git merge --quiet --ff-only FETCH_HEAD; then
    echo "$project holds commits or changes that $source lacks (ingest --commit makes some)." >&2
    echo "Bring them there, or merge by hand in $project; then start again." >&2
    exit 1
fi
# Beside Git: which store is this installation's is nothing that the repository knows.
dvc remote add --quiet --force --local storage s3://dvc
dvc remote modify --quiet --local storage endpointurl "$AWS_ENDPOINT_URL_S3"
echo "$project is at $(git rev-parse --short HEAD)"
