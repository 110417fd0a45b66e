#!/usr/bin/env bash
# Makes the table "against a solver written by hand" of benches/README.md. It needs Linux, and Python 3.9 or newer with the packages of
# requirements.txt. Arguments go to compare.py: `--runs 1` for one run of each, `--only linear` for some rows.
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo build --release --quiet --example yardstick
python3 benches/yardstick/compare.py "${CARGO_TARGET_DIR:-target}/release/examples/yardstick" "$@"
