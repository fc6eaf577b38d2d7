#!/usr/bin/env bash
# In a workflow of GitHub: open an issue that this run failed, or answer the one that is open since an earlier run.
# The workflow's name is the issue's label. Needs gh, GH_TOKEN with leave to write issues, and GH_REPO.
set -euo pipefail
workflow=$GITHUB_WORKFLOW
run=$GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID
body="$workflow failed: $run, at $GITHUB_SHA"
gh label create "$workflow" --force --color B60205 --description "The workflow $workflow fails"
number=$(gh issue list --state open --label "$workflow" --limit 1 --json number --jq '.[].number')
if [[ -n $number ]]; then
    gh issue comment "$number" --body "$body"
else
    gh issue create --label "$workflow" --title "The workflow $workflow fails" --body "$body"
fi
