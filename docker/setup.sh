#!/bin/sh
# Tells Prefect's server what it needs to know, each time the services come up: the pool of workers, the slot of the workers' GPU
# (the host name of the service `worker` names it), the deployments, their schedules.
set -eu
files=$(python -c 'from softgrpo.common.paths import DEPLOYMENTS; print(DEPLOYMENTS)')
prefect --no-prompt work-pool create local --type process --base-job-template "$files/work_pool.json" --overwrite
prefect --no-prompt global-concurrency-limit inspect gpu-worker >/dev/null 2>&1 ||
  prefect --no-prompt global-concurrency-limit create gpu-worker --limit 1
SOFTGRPO_OUTPUT=outputs prefect --no-prompt deploy --prefect-file "$files/prefect.yaml" --all
python -m softgrpo.flows.services.registration
