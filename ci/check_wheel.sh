#!/usr/bin/env bash
# Builds the wheel, installs it without extras into an environment of its own, and runs the demo and the command from it.
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" wheel -q --no-deps --wheel-dir "$folder" "$repository"
"$folder/venv/bin/pip" install -q "$folder"/greenml-*.whl
cd "$folder"  # away from the sources
"$folder/venv/bin/greenml" --help >help.txt
grep -q "report" help.txt
"$folder/venv/bin/python" -m greenml doctor >doctor.txt
"$folder/venv/bin/pip" install -q numpy scikit-learn  # what the demo trains with; greenml itself brings neither
"$folder/venv/bin/python" "$repository/examples/digits.py" --epochs 2 --output "$folder/run.json"
"$folder/venv/bin/greenml" report "$folder/run.json" --markdown | grep "Total CPU Energy Usage"
echo "the wheel: $(du -k "$folder"/greenml-*.whl | cut -f1) KiB, installed without extras, ran the demo"
